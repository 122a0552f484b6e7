package uniquename

import (
	"maps"
	"time"

	"github.com/dejalog/deja"
)

// Name is the state of a name.
type Name struct {
	Owner     string               `json:"owner"` // whose it is; "" for nobody
	Until     time.Time            `json:"until,omitzero"`
	Confirmed bool                 `json:"confirmed"`
	Released  map[string]time.Time `json:"released,omitempty"` // by owner: claims that end until then are over
}

// The refusals.
var (
	ErrMalformed = deja.NewRejection("uniquename.malformed") // no owner or one above 512 bytes, a time after the year 9999
	ErrName      = deja.NewRejection("uniquename.name")      // it is no name of this kind, or not in its normal form
	ErrTaken     = deja.NewRejection("uniquename.taken")     // it is held by another claim
	ErrReleased  = deja.NewRejection("uniquename.released")  // the claim was released, whether it had come or not
	ErrExpired   = deja.NewRejection("uniquename.expired")   // the claim's time is over
	ErrUnclaimed = deja.NewRejection("uniquename.unclaimed") // there is no such claim
)

// Aggregate returns the names of a kind.
func Aggregate[K Kind]() *deja.Aggregate[Name] {
	var k K
	return deja.NewAggregate(k.AggregateName(),
		deja.Handle(claim[K]),
		deja.Handle(confirm[K]),
		deja.Handle(release[K]),
		deja.Handle(expire[K]),
		deja.Apply(func(n *Name, e Claimed[K]) { n.Owner, n.Until = e.Owner, moment(e.Until) }),
		deja.Apply(func(n *Name, _ Confirmed[K]) { n.Confirmed = true }),
		deja.Apply(func(n *Name, e Released[K]) { n.release(e.Owner, e.Until, e.At) }),
		deja.Apply(func(n *Name, _ Expired[K]) { n.free() }),
	)
}

func claim[K Kind](n Name, d *deja.Decision, c Claim[K]) error {
	var k K
	if key, err := k.Key(d.Key()); err != nil || key != d.Key() {
		return ErrName.Because("the stream's key is no name of kind %s in its normal form", k.AggregateName())
	}
	if err := wellFormed(c.Owner, c.Until); err != nil {
		return err
	}
	switch {
	case n.heldBy(c.Owner, c.Until) && !n.over(d):
		return nil
	case n.released(c.Owner, c.Until):
		return ErrReleased
	case !d.Time().Before(moment(c.Until)):
		return ErrExpired
	case n.Owner != "" && !n.over(d):
		return ErrTaken
	case n.Owner != "": // its timer is late
		d.Record(Expired[K]{Owner: n.Owner, Until: n.Until})
	}
	d.Record(Claimed[K](c))
	d.Schedule(timer, c.Until, Expire[K](c))
	return nil
}

func confirm[K Kind](n Name, d *deja.Decision, c Confirm[K]) error {
	held := n.heldBy(c.Owner, c.Until)
	switch {
	case held && n.Confirmed:
		return nil
	case held && !n.over(d):
		d.Record(Confirmed[K](c))
		d.Cancel(timer)
		return nil
	case n.released(c.Owner, c.Until):
		return ErrReleased
	case !d.Time().Before(moment(c.Until)):
		return ErrExpired
	}
	return ErrUnclaimed
}

func release[K Kind](n Name, d *deja.Decision, c Release[K]) error {
	if err := wellFormed(c.Owner, c.Until); err != nil {
		return err
	}
	ends := n.ends(c.Owner, c.Until)
	if (!ends || n.over(d)) && (n.released(c.Owner, c.Until) || !d.Time().Before(moment(c.Until))) {
		return nil // it is over, or was released, or can come no more
	}
	d.Record(Released[K]{Owner: c.Owner, Until: c.Until, At: d.Time()})
	if ends && !n.Confirmed {
		d.Cancel(timer)
	}
	return nil
}

func expire[K Kind](n Name, d *deja.Decision, c Expire[K]) error {
	if n.heldBy(c.Owner, c.Until) && n.over(d) {
		d.Record(Expired[K](c))
	}
	return nil
}

func (n *Name) release(owner string, until, at time.Time) {
	if n.ends(owner, until) {
		n.free()
	}
	maps.DeleteFunc(n.Released, func(_ string, until time.Time) bool { return !until.After(at) })
	if until = moment(until); !until.After(at) {
		return
	}
	if n.Released == nil {
		n.Released = map[string]time.Time{}
	}
	n.Released[owner] = until // after any earlier one of this owner, or there was nothing to release
}

func (n *Name) free() { n.Owner, n.Until, n.Confirmed = "", time.Time{}, false }

// heldBy reports whether this very claim has the name.
func (n Name) heldBy(owner string, until time.Time) bool {
	return n.Owner == owner && owner != "" && n.Until.Equal(moment(until))
}

// ends reports whether a release ends the claim that has the name.
func (n Name) ends(owner string, until time.Time) bool {
	return n.Owner == owner && owner != "" && !n.Until.After(moment(until))
}

// released reports whether a claim was released, or barred.
func (n Name) released(owner string, until time.Time) bool {
	bar, ok := n.Released[owner]
	return ok && !moment(until).After(bar)
}

// over reports whether the claim's time is over, whether its timer has fired or not.
func (n Name) over(d *deja.Decision) bool { return !n.Confirmed && !d.Time().Before(n.Until) }

// timer names the timer of the claim that has the name.
const timer = "expire"

// maxOwner bounds what becomes part of the state.
const maxOwner = 512

// wellFormed refuses what no state can hold.
func wellFormed(owner string, until time.Time) error {
	switch {
	case owner == "" || len(owner) > maxOwner:
		return ErrMalformed.Because("an owner of %d bytes", len(owner))
	case until.UTC().Year() > 9999:
		return ErrMalformed.Because("an end after the year 9999")
	}
	return nil
}

// moment is a time as timers have it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
