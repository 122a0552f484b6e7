package reservation_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/reservation"
)

type seats struct{}

func (seats) AggregateName() string { return "seats" }

type (
	supply    = reservation.Supply[seats]
	reserve   = reservation.Reserve[seats]
	confirm   = reservation.Confirm[seats]
	cancel    = reservation.Cancel[seats]
	expire    = reservation.Expire[seats]
	supplied  = reservation.Supplied[seats]
	reserved  = reservation.Reserved[seats]
	confirmed = reservation.Confirmed[seats]
	cancelled = reservation.Cancelled[seats]
	expired   = reservation.Expired[seats]
	forgotten = reservation.Forgotten[seats]
)

const remember = 24 * time.Hour

// began is when a case begins, and until when its reservations end.
var (
	began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = began.Add(time.Hour)
)

// ten is a pool of ten, after some events.
func ten(t *testing.T, events ...deja.Event) *dejatest.Case[reservation.Pool] {
	t.Helper()
	return dejatest.New(t, reservation.Aggregate[seats](remember), "hamlet").
		Given(supplied{Amount: 10}).Given(events...)
}

var held = reserved{ID: "a", Amount: 4, Until: until}

func pool(supply, confirmed, sum int64, byID map[string]reservation.Hold) reservation.Pool {
	return reservation.Pool{Supply: supply, Confirmed: confirmed, Holds: reservation.Holds{Sum: sum, ByID: byID}}
}

func one(amount int64, s reservation.Status) map[string]reservation.Hold {
	return map[string]reservation.Hold{"a": {Amount: amount, Until: until, Status: s}}
}

func TestUnitsAreReservedAndConfirmed(t *testing.T) {
	ten(t).
		When(reserve(held)).Recorded(held).Scheduled("expire/a", time.Hour).
		State(pool(10, 0, 4, one(4, reservation.StatusHeld))).
		When(confirm{ID: "a"}).Recorded(confirmed{ID: "a", Amount: 4}).Cancelled("expire/a").
		State(pool(10, 4, 0, one(4, reservation.StatusConfirmed)))
}

func TestUnitsAreReservedAndCancelled(t *testing.T) {
	ten(t, held).
		When(cancel{ID: "a", Until: until}).Recorded(cancelled{ID: "a", Amount: 4, Until: until}).Cancelled("expire/a").
		State(pool(10, 0, 0, one(4, reservation.StatusCancelled)))
}

func TestUnitsAreReservedAndExpire(t *testing.T) {
	ten(t, held).
		When(expire{ID: "a"}).Nothing(). // somebody's, too early
		At(until).
		When(expire{ID: "a"}).Recorded(expired{ID: "a", Amount: 4}).
		State(pool(10, 0, 0, one(4, reservation.StatusExpired)))
}

func TestNoMoreIsReservedThanThereIs(t *testing.T) {
	ten(t, held).
		When(reserve{ID: "b", Amount: 7, Until: until}).Rejected(reservation.ErrShort).
		When(reserve{ID: "b", Amount: 6, Until: until}).Recorded(reserved{ID: "b", Amount: 6, Until: until}).
		When(reserve{ID: "c", Amount: 1, Until: until}).Rejected(reservation.ErrShort).
		When(reserve{ID: "d", Amount: math.MaxInt64, Until: until}).Rejected(reservation.ErrMalformed)
}

func TestAnEmptyPoolHasNothing(t *testing.T) {
	dejatest.New(t, reservation.Aggregate[seats](remember), "hamlet").
		When(reserve(held)).Rejected(reservation.ErrShort)
}

func TestWhatIsConfirmedIsGone(t *testing.T) {
	ten(t, held, confirmed{ID: "a", Amount: 4}).
		At(until.Add(remember)).
		When(reserve{ID: "b", Amount: 7, Until: until.Add(2 * remember)}).Rejected(reservation.ErrShort).
		When(supply{Amount: -7}).Rejected(reservation.ErrShort).
		When(supply{Amount: -6}).Recorded(supplied{Amount: -6}).
		State(pool(4, 4, 0, one(4, reservation.StatusConfirmed)))
}

func TestSupplyIsBounded(t *testing.T) {
	ten(t).
		When(supply{}).Rejected(reservation.ErrMalformed).
		When(supply{Amount: math.MinInt64}).Rejected(reservation.ErrMalformed).
		When(supply{Amount: math.MaxInt64 - 9}).Rejected(reservation.ErrMalformed).
		When(supply{Amount: math.MaxInt64 - 10}).Recorded(supplied{Amount: math.MaxInt64 - 10}).
		When(reserve{ID: "a", Amount: math.MaxInt64, Until: until}).Recorded(reserved{ID: "a", Amount: math.MaxInt64, Until: until}).
		When(reserve{ID: "a", Amount: math.MaxInt64, Until: until}).Nothing().
		When(supply{Amount: -1}).Rejected(reservation.ErrShort)
}

// The rows of the package comment's table, each with a message of its own ID.
func TestMessagesThatComeAgainOrLate(t *testing.T) {
	settled := map[string][]deja.Event{
		"held":      {held},
		"confirmed": {held, confirmed{ID: "a", Amount: 4}},
		"cancelled": {held, cancelled{ID: "a", Amount: 4, Until: until}},
		"barred":    {cancelled{ID: "a", Until: until}},
		"expired":   {held, expired{ID: "a", Amount: 4}},
	}
	for _, row := range []struct {
		given   string
		message deja.Command
		refusal error // nil: nothing happens
	}{
		{"held", reserve(held), nil},
		{"held", reserve{ID: "a", Amount: 3, Until: until}, reservation.ErrDiffers},
		{"held", reserve{ID: "a", Amount: 4, Until: until.Add(1)}, nil}, // what is below a microsecond does not count
		{"held", reserve{ID: "a", Amount: 4, Until: until.Add(time.Microsecond)}, reservation.ErrDiffers},
		{"held", reserve{ID: "a", Amount: 4, Until: until.In(time.FixedZone("", 3600))}, nil},
		{"held", cancel{ID: "a", Until: until.Add(time.Minute)}, reservation.ErrDiffers},
		{"held", cancel{ID: "a"}, reservation.ErrDiffers},

		{"confirmed", reserve(held), nil},
		{"confirmed", reserve{ID: "a", Amount: 3, Until: until}, reservation.ErrDiffers},
		{"confirmed", confirm{ID: "a"}, nil},
		{"confirmed", cancel{ID: "a", Until: until}, reservation.ErrConfirmed},
		{"confirmed", expire{ID: "a"}, nil},

		{"cancelled", reserve(held), reservation.ErrCancelled},
		{"cancelled", confirm{ID: "a"}, reservation.ErrCancelled},
		{"cancelled", cancel{ID: "a", Until: until}, nil},
		{"cancelled", expire{ID: "a"}, nil},

		{"barred", reserve(held), reservation.ErrCancelled},
		{"barred", reserve{ID: "a", Amount: 3, Until: until.Add(time.Minute)}, reservation.ErrCancelled},
		{"barred", confirm{ID: "a"}, reservation.ErrCancelled},
		{"barred", cancel{ID: "a", Until: until}, nil},
		{"barred", expire{ID: "a"}, nil},

		{"expired", reserve(held), reservation.ErrExpired},
		{"expired", confirm{ID: "a"}, reservation.ErrExpired},
		{"expired", cancel{ID: "a", Until: until}, nil},
		{"expired", expire{ID: "a"}, nil},

		{"not known", confirm{ID: "a"}, reservation.ErrUnknown},
		{"not known", cancel{ID: "a"}, reservation.ErrUnknown},
		{"not known", cancel{ID: "a", Until: began}, reservation.ErrUnknown},
		{"not known", reserve{ID: "a", Amount: 4}, reservation.ErrExpired},
		{"not known", reserve{ID: "a", Amount: 4, Until: began}, reservation.ErrExpired},
		{"not known", expire{ID: "a"}, nil},

		{"not known", reserve{Amount: 4, Until: until}, reservation.ErrMalformed},
		{"not known", reserve{ID: strings.Repeat("a", 513), Amount: 4, Until: until}, reservation.ErrMalformed},
		{"not known", reserve{ID: "a", Until: until}, reservation.ErrMalformed},
		{"not known", reserve{ID: "a", Amount: -1, Until: until}, reservation.ErrMalformed},
		{"not known", cancel{Until: until}, reservation.ErrMalformed},
		{"not known", reserve{ID: "a", Amount: 1, Until: endOfTime}, reservation.ErrMalformed},
		{"not known", cancel{ID: "a", Until: endOfTime}, reservation.ErrMalformed},
	} {
		t.Run(row.given+"/"+row.message.CommandType(), func(t *testing.T) {
			c := ten(t, settled[row.given]...)
			if row.given == "not known" {
				c.Given(forgotten{Until: began})
			}
			if row.refusal != nil {
				c.When(row.message).Rejected(row.refusal)
			} else {
				c.When(row.message).Nothing()
			}
		})
	}
}

// endOfTime can be written in its own zone, and not in UTC.
var endOfTime = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600))

func TestACancelledReservationIsRefusedWhenItComes(t *testing.T) {
	ten(t).
		When(cancel{ID: "a", Until: until}).Recorded(cancelled{ID: "a", Until: until}).
		State(pool(10, 0, 0, one(0, reservation.StatusCancelled))).
		When(reserve(held)).Rejected(reservation.ErrCancelled).
		At(until).
		When(reserve(held)).Rejected(reservation.ErrCancelled)
}

// A timer is late, and what it says holds all the same.
func TestWhatIsOverIsOverBeforeItsTimerFires(t *testing.T) {
	ten(t, held).
		At(until.Add(-time.Microsecond)).
		When(reserve(held)).Nothing().
		At(until).
		When(reserve(held)).Rejected(reservation.ErrExpired).
		When(confirm{ID: "a"}).Rejected(reservation.ErrExpired).
		When(cancel{ID: "a", Until: until}).Nothing().
		When(expire{ID: "a"}).Recorded(expired{ID: "a", Amount: 4})
}

func TestACancelOfWhatCanComeNoMoreNeedsNoBar(t *testing.T) {
	ten(t).At(until).When(cancel{ID: "a", Until: until}).Nothing()
}

func TestUnitsThatAreOverAreGivenToTheNext(t *testing.T) {
	later := until.Add(time.Hour)
	next := func(id string, amount int64) reserved { return reserved{ID: id, Amount: amount, Until: later} }
	given := func(t *testing.T) *dejatest.Case[reservation.Pool] {
		return ten(t,
			reserved{ID: "b", Amount: 2, Until: until},
			reserved{ID: "a", Amount: 2, Until: until},
			reserved{ID: "c", Amount: 2, Until: until.Add(-time.Minute)},
			reserved{ID: "d", Amount: 2, Until: later},
		).At(until)
	}
	given(t).When(reserve(next("e", 2))).Recorded(next("e", 2))
	given(t).When(reserve(next("e", 3))).
		Recorded(expired{ID: "c", Amount: 2}, next("e", 3)).Cancelled("expire/c")
	given(t).When(reserve(next("e", 5))).
		Recorded(expired{ID: "c", Amount: 2}, expired{ID: "a", Amount: 2}, next("e", 5))
	given(t).When(supply{Amount: -8}).
		Recorded(expired{ID: "c", Amount: 2}, expired{ID: "a", Amount: 2}, expired{ID: "b", Amount: 2}, supplied{Amount: -8})
	given(t).When(reserve(next("e", 9))).Rejected(reservation.ErrShort)
}

func TestSettledReservationsAreForgotten(t *testing.T) {
	later := until.Add(remember + 2*time.Hour)
	next := reserved{ID: "d", Amount: 1, Until: later}
	c := ten(t,
		reserved{ID: "a", Amount: 1, Until: until}, confirmed{ID: "a", Amount: 1},
		reserved{ID: "b", Amount: 1, Until: until.Add(time.Hour)}, confirmed{ID: "b", Amount: 1},
		reserved{ID: "c", Amount: 1, Until: until},
	).At(until.Add(remember))
	c.When(reserve(next)).Recorded(forgotten{Until: until}, next).
		State(reservation.Pool{Supply: 10, Confirmed: 2, Holds: reservation.Holds{
			Sum: 2,
			ByID: map[string]reservation.Hold{
				"b": {Amount: 1, Until: until.Add(time.Hour), Status: reservation.StatusConfirmed},
				"c": {Amount: 1, Until: until, Status: reservation.StatusHeld}, // its timer is late
				"d": {Amount: 1, Until: later, Status: reservation.StatusHeld},
			},
			Forgotten: until,
		}}).
		When(reserve{ID: "a", Amount: 1, Until: until}).Rejected(reservation.ErrExpired).
		When(confirm{ID: "a"}).Rejected(reservation.ErrUnknown).
		When(cancel{ID: "a", Until: until}).Rejected(reservation.ErrUnknown). // it was confirmed, and this does not say otherwise
		When(cancel{ID: "x", Until: until.Add(time.Minute)}).Nothing().       // this one never came
		When(cancel{ID: "b", Until: until.Add(time.Hour)}).Rejected(reservation.ErrConfirmed)
}

// Each thing forgotten is an event of many: the pool does not record one with each reservation.
func TestForgettingIsPutOffUntilItPays(t *testing.T) {
	given := make([]deja.Event, 0, 32)
	for i := range 16 {
		id := string(rune('a' + i))
		given = append(given, reserved{ID: id, Amount: 1, Until: until.Add(time.Duration(i) * time.Minute)}, confirmed{ID: id, Amount: 1})
	}
	bar := func(id string, at time.Time) cancel { return cancel{ID: id, Until: at.Add(time.Hour)} }
	at := until.Add(remember + time.Minute)
	c := ten(t, supplied{Amount: 90}).Given(given...).At(at)
	c.When(bar("x", at)).Recorded(barred(bar("x", at))) // two are due, of sixteen
	at = at.Add(time.Minute)
	c.At(at).When(bar("y", at)).Recorded(forgotten{Until: at.Add(-remember)}, barred(bar("y", at)))
}

func barred(c cancel) cancelled { return cancelled{ID: c.ID, Until: c.Until} }

// With no memory beyond its end a pool answers less, and nothing wrong.
func TestNothingIsForgottenBeforeItsEnd(t *testing.T) {
	for _, remember := range []time.Duration{0, -time.Hour} {
		dejatest.New(t, reservation.Aggregate[seats](remember), "hamlet").
			Given(supplied{Amount: 10}, cancelled{ID: "a", Until: until}).
			At(until.Add(-time.Microsecond)).
			When(reserve{ID: "b", Amount: 1, Until: until}).Recorded(reserved{ID: "b", Amount: 1, Until: until}).
			When(reserve(held)).Rejected(reservation.ErrCancelled).
			At(until).
			When(cancel{ID: "c", Until: until.Add(1 + time.Hour)}).
			Recorded(forgotten{Until: until}, cancelled{ID: "c", Until: until.Add(1 + time.Hour)}).
			When(reserve(held)).Rejected(reservation.ErrExpired)
	}
}

type rooms struct{}

func (rooms) AggregateName() string { return "hotel.rooms" }

func TestKindsOfPoolAreAggregatesOfTheirOwn(t *testing.T) {
	m, err := deja.Compile(&deja.Service{Name: "travel", Aggregates: []deja.AnyAggregate{
		reservation.Aggregate[seats](remember), reservation.Aggregate[rooms](remember),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Aggregates(); len(got) != 2 || got[0] != "hotel.rooms" || got[1] != "seats" {
		t.Errorf("aggregates %v", got)
	}
	if got := (reservation.Reserve[rooms]{}).CommandType(); got != "hotel.rooms.reserve" {
		t.Errorf("a room is reserved by %s", got)
	}
}
