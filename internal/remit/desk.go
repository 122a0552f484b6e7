package remit

import (
	"time"

	"github.com/dejalog/deja"
)

// A desk of the ledger takes postings in and posts them some time later, so what a remittance has asked for may reach the
// posting's stream after the reversal has: another stream sends it, and only what one stream sends keeps its order. The desk
// then tells the remittance what became of it.

// Submit is a desk's command: it is to post, after a time.
type Submit struct {
	Post Post
	Hold time.Duration
}

// CommandType implements [deja.Command].
func (Submit) CommandType() string { return "desk.submit" }

// Release is what a desk has scheduled: it posts now.
type Release struct{ Post Post }

// CommandType implements [deja.Command].
func (Release) CommandType() string { return "desk.release" }

// Settle is a desk's word to a remittance: Refused is the refusal's code, if the posting was refused.
type Settle struct{ Refused string }

// CommandType implements [deja.Command].
func (Settle) CommandType() string { return "remittance.settle" }

// Submitted is the event of a desk.
type Submitted struct{ Remittance string }

// EventType implements [deja.Event].
func (Submitted) EventType() string { return "desk.submitted" }

// Desk is the state of a desk.
type Desk struct {
	Submitted int `json:"submitted"`
}

func desk() *deja.Aggregate[Desk] {
	return deja.NewAggregate("desk",
		deja.Handle(Desk.submit),
		deja.Handle(Desk.release),
		deja.OnReply(Desk.onPost),
		deja.Forget[Desk, Settle](),
		deja.Apply(func(k *Desk, _ Submitted) { k.Submitted++ }),
	)
}

func (k Desk) submit(d *deja.Decision, c Submit) error {
	d.Record(Submitted{c.Post.Remittance})
	d.Schedule(c.Post.Remittance, d.Time().Add(c.Hold), Release{c.Post})
	return nil
}

func (k Desk) release(d *deja.Decision, c Release) error {
	d.Send(c.Post.Remittance, c.Post)
	return nil
}

func (k Desk) onPost(d *deja.Decision, a deja.Reply[Post]) error {
	c := Settle{}
	if a.Rejection != nil {
		c.Refused = a.Rejection.Code
	}
	d.Send(a.Command.Remittance, c)
	return nil
}

func (r Remittance) onSubmit(d *deja.Decision, a deja.Reply[Submit]) error {
	if a.Rejection != nil && r.Phase == Posting {
		return r.giveUp(d, a.Rejection.Code)
	}
	return nil
}

// settle takes the desk's word. One that comes after the time-out comes too late: the reversal on its way settles it.
func (r Remittance) settle(d *deja.Decision, c Settle) error {
	switch {
	case r.Phase != Posting:
		return nil
	case c.Refused != "":
		return r.giveUp(d, c.Refused)
	}
	return r.finish(d)
}
