package reservations

import (
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/uniquename"
)

type Handles struct{} // a kind of name

func (Handles) AggregateName() string           { return "handles" }
func (Handles) Key(name string) (string, error) { return uniquename.ASCII(name) }

type User struct { // the saga that changes its handle is the user itself
	Handle Handle `json:"handle"`
	Next   Handle `json:"next"` // claimed, and not the user's yet
}

type Handle struct {
	Key   string    `json:"key"`
	Until time.Time `json:"until"` // of the claim
}

func (u User) Rename(d *deja.Decision, c Rename) error {
	key, err := Handles{}.Key(c.Handle)
	switch {
	case err != nil:
		return err
	case u.Next.Key != "":
		return ErrBusy
	case u.Handle.Key == key:
		return nil
	}
	next := Handle{Key: key, Until: d.Time().Add(10 * time.Minute)}
	d.Record(Renaming{Next: next})
	d.Send(key, uniquename.Claim[Handles]{Owner: d.Key(), Until: next.Until}) // claim the new one
	return nil
}

func (u User) onClaim(d *deja.Decision, r deja.Reply[uniquename.Claim[Handles]]) error {
	switch r.Rejection {
	case nil:
		d.Send(u.Next.Key, uniquename.Confirm[Handles](r.Command))
	default:
		d.Record(NotRenamed{Why: r.Rejection.Code})
	}
	return nil
}

func (u User) onConfirm(d *deja.Decision, r deja.Reply[uniquename.Confirm[Handles]]) error {
	switch {
	case r.Rejection != nil: // too late: the claim has expired
		d.Record(NotRenamed{Why: r.Rejection.Code})
	case u.Handle.Key == "": // the first one
		d.Record(Renamed{})
	default:
		d.Record(Renamed{})                                                                      // set it
		d.Send(u.Handle.Key, uniquename.Release[Handles]{Owner: d.Key(), Until: u.Handle.Until}) // release the old one
	}
	return nil
}

func Users() *deja.Aggregate[User] {
	return deja.NewAggregate("user",
		deja.Handle(User.Rename),
		deja.OnReply(User.onClaim),
		deja.OnReply(User.onConfirm),
		deja.Forget[User, uniquename.Release[Handles]](), // it is never refused
		deja.Apply(func(u *User, e Renaming) { u.Next = e.Next }),
		deja.Apply(func(u *User, _ Renamed) { *u = User{Handle: u.Next} }),
		deja.Apply(func(u *User, _ NotRenamed) { u.Next = Handle{} }),
		deja.Ends[User, Renamed](),
		deja.Ends[User, NotRenamed](),
	)
}

func users() *deja.Service {
	return &deja.Service{Name: "users", Aggregates: []deja.AnyAggregate{Users(), uniquename.Aggregate[Handles]()}}
}

// The messages of a user.
type (
	Rename struct {
		Handle string `json:"handle"`
	}
	Renaming struct {
		Next Handle `json:"next"`
	}
	Renamed    struct{}
	NotRenamed struct {
		Why string `json:"why"`
	}
)

func (Rename) CommandType() string   { return "user.rename" }
func (Renaming) EventType() string   { return "user.renaming" }
func (Renamed) EventType() string    { return "user.renamed" }
func (NotRenamed) EventType() string { return "user.not-renamed" }

// ErrBusy refuses a change of handles during another.
var ErrBusy = deja.NewRejection("user.busy")
