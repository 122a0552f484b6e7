package sagas_test

import "github.com/dejalog/deja"

var (
	ErrPlaced    = deja.NewRejection("order.placed")
	ErrPhase     = deja.NewRejection("order.phase")
	ErrCancelled = deja.NewRejection("parcel.cancelled")
	ErrNoStock   = deja.NewRejection("parcel.stock")
)

type (
	Place   struct{ Item string }
	TimeOut struct{}
	Undo    struct{}

	Placed  struct{ Item string }
	Packed  struct{}
	GivenUp struct{}
	Undone  struct{ Why string }
	Stuck   struct{ Why string }

	Pack   struct{ Item string }
	Cancel struct{}
	Return struct{ Order string }

	ParcelPacked    struct{ Item string }
	ParcelCancelled struct{}
	Returned        struct{ Order string }

	Mail struct{ Order, Text string }
)

func (Place) CommandType() string   { return "order.place" }
func (TimeOut) CommandType() string { return "order.time-out" }
func (Undo) CommandType() string    { return "order.undo" }
func (Pack) CommandType() string    { return "parcel.pack" }
func (Cancel) CommandType() string  { return "parcel.cancel" }
func (Return) CommandType() string  { return "door.return" }

func (Placed) EventType() string          { return "order.placed" }
func (Packed) EventType() string          { return "order.packed" }
func (GivenUp) EventType() string         { return "order.given-up" }
func (Undone) EventType() string          { return "order.undone" }
func (Stuck) EventType() string           { return "order.stuck" }
func (ParcelPacked) EventType() string    { return "parcel.packed" }
func (ParcelCancelled) EventType() string { return "parcel.cancelled" }
func (Returned) EventType() string        { return "door.returned" }

func (Mail) EffectType() string { return "mail.send" }
