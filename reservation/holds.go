package reservation

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dejalog/deja"
)

// Holds are the reservations of one stream, to be a field of its aggregate's state: a [Pool] has them, and so can an
// account whose money is held, captured and released. They hold the rules about time and order, and the aggregate what
// there is to be reserved. The zero value has none.
//
// The methods whose names begin with May are for decisions, and change nothing. Those that ask about a reservation
// return true if and only if there is something to record. If not, the error says why it is refused; a nil error says
// that there is nothing left to do, as it was done before. The other methods are for apply functions.
type Holds struct {
	Sum       int64           `json:"sum"` // of the amounts that are held
	ByID      map[string]Hold `json:"by_id,omitempty"`
	Forgotten time.Time       `json:"forgotten,omitzero"` // settled ones that end until then may be missing in ByID
}

// A Hold is one reservation.
type Hold struct {
	Amount int64     `json:"amount"` // 0 if it was cancelled before it came
	Until  time.Time `json:"until"`  // when it ends unless it was confirmed; UTC, in whole microseconds
	Status Status    `json:"status"`
}

// Status says what became of a reservation. All but [StatusHeld] are final: the reservation is settled.
type Status string

// What can become of a reservation.
const (
	StatusHeld      Status = "held"
	StatusConfirmed Status = "confirmed"
	StatusCancelled Status = "cancelled"
	StatusExpired   Status = "expired"
)

// The refusals.
var (
	ErrMalformed = deja.NewRejection("reservation.malformed") // no id or one above 512 bytes, an amount out of range, a time after the year 9999
	ErrShort     = deja.NewRejection("reservation.short")     // not enough is free
	ErrDiffers   = deja.NewRejection("reservation.differs")   // there is a reservation of this id with another amount or end
	ErrConfirmed = deja.NewRejection("reservation.confirmed") // it is confirmed, and cannot be cancelled any more
	ErrCancelled = deja.NewRejection("reservation.cancelled") // it is cancelled, whether it had come or not
	ErrExpired   = deja.NewRejection("reservation.expired")   // its time is over
	ErrUnknown   = deja.NewRejection("reservation.unknown")   // it never came, or is forgotten: ask the history
)

// MayReserve decides whether amount is to be held under id until some time. Whether there is so much is for the
// caller to decide.
func (h Holds) MayReserve(d *deja.Decision, id string, amount int64, until time.Time) (bool, error) {
	if err := wellFormed(id, until); err != nil {
		return false, err
	}
	if amount <= 0 {
		return false, ErrMalformed.Because("an amount of %d", amount)
	}
	r, known := h.ByID[id]
	switch r.statusAt(d) {
	case StatusCancelled:
		return false, ErrCancelled
	case StatusExpired:
		return false, ErrExpired
	case StatusHeld, StatusConfirmed:
	}
	switch {
	case known && (r.Amount != amount || !r.Until.Equal(moment(until))):
		return false, ErrDiffers.Because("it is of %d until %s", r.Amount, r.Until.Format(time.RFC3339Nano))
	case known:
		return false, nil
	case !d.Time().Before(moment(until)):
		return false, ErrExpired.Because("it came when its time was over")
	case amount > math.MaxInt64-h.Sum:
		return false, ErrMalformed.Because("an amount of %d beside %d", amount, h.Sum)
	}
	return true, nil
}

// MayConfirm decides whether what is held under id is taken for good.
func (h Holds) MayConfirm(d *deja.Decision, id string) (bool, error) {
	switch h.ByID[id].statusAt(d) {
	case StatusHeld:
		return true, nil
	case StatusConfirmed:
		return false, nil
	case StatusCancelled:
		return false, ErrCancelled
	case StatusExpired:
		return false, ErrExpired
	}
	return false, ErrUnknown
}

// MayCancel decides whether the reservation is to be cancelled; one that has not come yet is barred. Its end is that
// of the reservation: it says for how long one may still come, and tells one that never came from one that is
// forgotten.
func (h Holds) MayCancel(d *deja.Decision, id string, until time.Time) (bool, error) {
	if err := wellFormed(id, until); err != nil {
		return false, err
	}
	until = moment(until)
	r, known := h.ByID[id]
	switch {
	case known && !r.Until.Equal(until):
		return false, ErrDiffers.Because("it ends at %s", r.Until.Format(time.RFC3339Nano))
	case r.Status == StatusConfirmed:
		return false, ErrConfirmed
	case known:
		return r.statusAt(d) == StatusHeld, nil
	case !until.After(h.Forgotten):
		return false, ErrUnknown
	}
	return d.Time().Before(until), nil
}

// MayExpire decides whether the time of what is held under id is over.
func (h Holds) MayExpire(d *deja.Decision, id string) bool {
	r := h.ByID[id]
	return r.Status == StatusHeld && r.statusAt(d) == StatusExpired
}

// MayExpireFor returns the ids of as many holds whose time is over as it takes to free amount, those that ended first
// coming first. It returns false if all of them would not be enough. So what is free does not depend on how late
// timers are.
func (h Holds) MayExpireFor(d *deja.Decision, amount int64) ([]string, bool) {
	if amount <= 0 {
		return nil, true
	}
	var over []string
	for id := range h.ByID {
		if h.MayExpire(d, id) {
			over = append(over, id)
		}
	}
	slices.SortFunc(over, func(a, b string) int {
		return cmp.Or(h.ByID[a].Until.Compare(h.ByID[b].Until), cmp.Compare(a, b))
	})
	for i, id := range over {
		if amount -= h.ByID[id].Amount; amount <= 0 {
			return over[:i+1], true
		}
	}
	return nil, false
}

// MayForget decides whether to forget settled reservations, and up to which end: those that ended the time remember
// ago, and only once they are more than an eighth of all, so that it is not done each time. A negative remember is 0.
func (h Holds) MayForget(d *deja.Decision, remember time.Duration) (until time.Time, ok bool) {
	until = d.Time().Add(-max(remember, 0))
	due := 0
	for _, r := range h.ByID {
		if r.forgettable(until) {
			due++
		}
	}
	return until, due > len(h.ByID)/8
}

// Reserve holds amount under id.
func (h *Holds) Reserve(id string, amount int64, until time.Time) {
	h.set(id, Hold{amount, moment(until), StatusHeld})
	h.Sum += amount
}

// Confirm settles what is held under id, and returns its amount, which is held no longer and for the caller to take.
func (h *Holds) Confirm(id string) (amount int64) { return h.settle(id, StatusConfirmed) }

// Cancel settles what is held under id, or bars it, and returns the amount that is free again: 0 if it is barred.
func (h *Holds) Cancel(id string, until time.Time) (amount int64) {
	if _, known := h.ByID[id]; !known {
		h.set(id, Hold{Until: moment(until), Status: StatusCancelled})
	}
	return h.settle(id, StatusCancelled)
}

// Expire settles what is held under id, and returns the amount that is free again.
func (h *Holds) Expire(id string) (amount int64) { return h.settle(id, StatusExpired) }

// Forget forgets what is settled and ended until then.
func (h *Holds) Forget(until time.Time) {
	maps.DeleteFunc(h.ByID, func(_ string, r Hold) bool { return r.forgettable(until) })
	if until.After(h.Forgotten) {
		h.Forgotten = until
	}
}

func (h *Holds) set(id string, r Hold) {
	if h.ByID == nil {
		h.ByID = map[string]Hold{}
	}
	h.ByID[id] = r
}

func (h *Holds) settle(id string, s Status) (amount int64) {
	r := h.ByID[id]
	if r.Status != StatusHeld {
		return 0
	}
	r.Status = s
	h.ByID[id] = r
	h.Sum -= r.Amount
	return r.Amount
}

// statusAt is the status at the decision's time: what is over has expired, whether its timer has fired or not.
func (r Hold) statusAt(d *deja.Decision) Status {
	if r.Status == StatusHeld && !d.Time().Before(r.Until) {
		return StatusExpired
	}
	return r.Status
}

func (r Hold) forgettable(until time.Time) bool {
	return r.Status != StatusHeld && !r.Until.After(until)
}

// maxID bounds what becomes part of the state for each reservation.
const maxID = 512

// wellFormed refuses what no state can hold.
func wellFormed(id string, until time.Time) error {
	switch {
	case id == "" || len(id) > maxID:
		return ErrMalformed.Because("an id of %d bytes", len(id))
	case until.UTC().Year() > 9999:
		return ErrMalformed.Because("an end after the year 9999")
	}
	return nil
}

// moment is a time as timers have it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
