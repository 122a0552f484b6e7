package reservation

import "time"

// A Kind names a pool's aggregate, and keeps the messages of several kinds of pool apart: by their names, as a command
// goes to the aggregate in its name, and by their Go types, so that a saga which reserves a room and a seat has a row
// for each reply. An empty struct will do:
//
//	type Seats struct{}
//
//	func (Seats) AggregateName() string { return "seats" }
type Kind interface {
	// AggregateName is called on a zero value and must return a constant.
	AggregateName() string
}

// Supply adds units to the pool. A negative amount takes free ones away.
type Supply[K Kind] struct {
	Amount int64 `json:"amount"`
}

// Reserve holds units until they are confirmed or cancelled, or their time is over.
type Reserve[K Kind] struct {
	ID     string    `json:"id"` // names the reservation, in this pool: a saga's key will do. At most 512 bytes
	Amount int64     `json:"amount"`
	Until  time.Time `json:"until"` // in steps of a microsecond; from then on it can be neither made nor confirmed
}

// Confirm takes the units for good.
type Confirm[K Kind] struct {
	ID string `json:"id"`
}

// Cancel gives the units back. A reservation that has not come yet is barred: it is refused when it does.
type Cancel[K Kind] struct {
	ID    string    `json:"id"`
	Until time.Time `json:"until"` // that of the reservation
}

// Expire gives the units back if their time is over. The pool sends it to itself; from anybody else it does no harm.
type Expire[K Kind] struct {
	ID string `json:"id"`
}

// Supplied says that units were added, or taken away.
type Supplied[K Kind] struct {
	Amount int64 `json:"amount"`
}

// Reserved says that units are held.
type Reserved[K Kind] struct {
	ID     string    `json:"id"`
	Amount int64     `json:"amount"`
	Until  time.Time `json:"until"`
}

// Confirmed says that units were taken for good.
type Confirmed[K Kind] struct {
	ID     string `json:"id"`
	Amount int64  `json:"amount"`
}

// Cancelled says that units were given back.
type Cancelled[K Kind] struct {
	ID     string    `json:"id"`
	Amount int64     `json:"amount"` // 0 if the reservation had not come: it is barred
	Until  time.Time `json:"until"`
}

// Expired says that units were given back, as their time was over.
type Expired[K Kind] struct {
	ID     string `json:"id"`
	Amount int64  `json:"amount"`
}

// Forgotten says that settled reservations which ended until then are remembered no longer.
type Forgotten[K Kind] struct {
	Until time.Time `json:"until"`
}

// CommandType is <aggregate>.supply.
func (Supply[K]) CommandType() string { return wireName[K]("supply") }

// CommandType is <aggregate>.reserve.
func (Reserve[K]) CommandType() string { return wireName[K]("reserve") }

// CommandType is <aggregate>.confirm.
func (Confirm[K]) CommandType() string { return wireName[K]("confirm") }

// CommandType is <aggregate>.cancel.
func (Cancel[K]) CommandType() string { return wireName[K]("cancel") }

// CommandType is <aggregate>.expire.
func (Expire[K]) CommandType() string { return wireName[K]("expire") }

// EventType is <aggregate>.supplied.
func (Supplied[K]) EventType() string { return wireName[K]("supplied") }

// EventType is <aggregate>.reserved.
func (Reserved[K]) EventType() string { return wireName[K]("reserved") }

// EventType is <aggregate>.confirmed.
func (Confirmed[K]) EventType() string { return wireName[K]("confirmed") }

// EventType is <aggregate>.cancelled.
func (Cancelled[K]) EventType() string { return wireName[K]("cancelled") }

// EventType is <aggregate>.expired.
func (Expired[K]) EventType() string { return wireName[K]("expired") }

// EventType is <aggregate>.forgotten.
func (Forgotten[K]) EventType() string { return wireName[K]("forgotten") }

func wireName[K Kind](word string) string {
	var k K
	return k.AggregateName() + "." + word
}
