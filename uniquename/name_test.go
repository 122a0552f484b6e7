package uniquename_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/uniquename"
)

type handles struct{}

func (handles) AggregateName() string           { return "handles" }
func (handles) Key(name string) (string, error) { return uniquename.ASCII(name) }

type (
	claim     = uniquename.Claim[handles]
	confirm   = uniquename.Confirm[handles]
	release   = uniquename.Release[handles]
	expire    = uniquename.Expire[handles]
	claimed   = uniquename.Claimed[handles]
	confirmed = uniquename.Confirmed[handles]
	released  = uniquename.Released[handles]
	expired   = uniquename.Expired[handles]
)

// began is when a case begins, and until when its claims end.
var (
	began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = began.Add(time.Hour)
)

// ana is a name after some events.
func ana(t *testing.T, events ...deja.Event) *dejatest.Case[uniquename.Name] {
	t.Helper()
	return dejatest.New(t, uniquename.Aggregate[handles](), "ana").Given(events...)
}

var held = claimed{Owner: "u1", Until: until}

func TestANameIsClaimedAndConfirmed(t *testing.T) {
	ana(t).
		When(claim(held)).Recorded(held).Scheduled("expire", time.Hour).
		State(uniquename.Name{Owner: "u1", Until: until}).
		When(confirm(held)).Recorded(confirmed(held)).Cancelled("expire").
		State(uniquename.Name{Owner: "u1", Until: until, Confirmed: true}).
		At(until).
		When(confirm(held)).Nothing().
		When(claim(held)).Nothing().
		When(expire(held)).Nothing().
		When(claim{Owner: "u2", Until: until.Add(time.Hour)}).Rejected(uniquename.ErrTaken)
}

func TestAClaimExpires(t *testing.T) {
	ana(t, held).
		When(expire(held)).Nothing(). // somebody's, too early
		When(claim{Owner: "u2", Until: until}).Rejected(uniquename.ErrTaken).
		At(until).
		When(expire{Owner: "u1", Until: until.Add(1 + time.Hour)}).Nothing(). // of another claim
		When(expire(held)).Recorded(expired(held)).
		State(uniquename.Name{}).
		When(claim{Owner: "u2", Until: until.Add(time.Hour)}).Recorded(claimed{Owner: "u2", Until: until.Add(time.Hour)})
}

func TestANameIsReleased(t *testing.T) {
	bars := uniquename.Name{Released: map[string]time.Time{"u1": until}}
	free := released{Owner: "u1", Until: until, At: began}
	ana(t, held).When(release(held)).Recorded(free).Cancelled("expire").State(bars)
	ana(t, held, confirmed(held)).When(release(held)).Recorded(free).State(bars)
	ana(t, held, confirmed(held)).At(until).
		When(release(held)).Recorded(released{Owner: "u1", Until: until, At: until}).
		State(uniquename.Name{}) // a claim that is over needs no bar
}

// An owner comes back with a later claim, which an earlier release leaves alone.
func TestAReleaseIsOfItsClaimAndEarlierOnes(t *testing.T) {
	later := claimed{Owner: "u1", Until: until.Add(time.Minute)}
	ana(t, held, released{Owner: "u1", Until: until, At: began}).
		When(claim(held)).Rejected(uniquename.ErrReleased).
		When(claim(later)).Recorded(later).
		When(release(held)).Nothing().
		When(confirm(held)).Rejected(uniquename.ErrReleased).
		When(confirm(later)).Recorded(confirmed(later)).
		When(release(held)).Nothing().
		When(release{Owner: "u2", Until: later.Until}).Recorded(released{Owner: "u2", Until: later.Until, At: began}).
		State(uniquename.Name{Owner: "u1", Until: later.Until, Confirmed: true, Released: map[string]time.Time{"u1": until, "u2": later.Until}}).
		When(release{Owner: "u1", Until: later.Until.Add(time.Minute)}).
		Recorded(released{Owner: "u1", Until: later.Until.Add(time.Minute), At: began}).
		State(uniquename.Name{Released: map[string]time.Time{"u1": later.Until.Add(time.Minute), "u2": later.Until}})
}

// The rows of the package comment's table, each with a message of its own ID.
func TestMessagesThatComeAgainOrLate(t *testing.T) {
	bar := released{Owner: "u1", Until: until, At: began}
	for _, row := range []struct {
		given   []deja.Event
		message deja.Command
		refusal error // nil: nothing happens
	}{
		{nil, confirm(held), uniquename.ErrUnclaimed},
		{nil, confirm{Owner: "u1", Until: began}, uniquename.ErrExpired},
		{nil, claim{Owner: "u1", Until: began}, uniquename.ErrExpired},
		{nil, claim{Owner: "u1"}, uniquename.ErrExpired},
		{nil, release{Owner: "u1", Until: began}, nil},
		{nil, expire(held), nil},
		{nil, expire{}, nil},
		{nil, release{}, uniquename.ErrMalformed},
		{nil, claim{Until: until}, uniquename.ErrMalformed},
		{nil, claim{Owner: strings.Repeat("u", 513), Until: until}, uniquename.ErrMalformed},
		{nil, claim{Owner: "u1", Until: endOfTime}, uniquename.ErrMalformed},
		{nil, release{Owner: "u1", Until: endOfTime}, uniquename.ErrMalformed},

		{[]deja.Event{held}, claim(held), nil},
		{[]deja.Event{held}, claim{Owner: "u1", Until: until.Add(1).In(time.FixedZone("", 3600))}, nil},
		{[]deja.Event{held}, claim{Owner: "u1", Until: until.Add(time.Hour)}, uniquename.ErrTaken},
		{[]deja.Event{held}, claim{Owner: "u2", Until: until}, uniquename.ErrTaken},
		{[]deja.Event{held}, confirm{Owner: "u1", Until: until.Add(time.Hour)}, uniquename.ErrUnclaimed},
		{[]deja.Event{held}, confirm{Owner: "u2", Until: until}, uniquename.ErrUnclaimed},
		{[]deja.Event{held}, release{Owner: "u1", Until: began}, nil},

		{[]deja.Event{bar}, claim(held), uniquename.ErrReleased},
		{[]deja.Event{bar}, claim{Owner: "u1", Until: until.Add(-time.Minute)}, uniquename.ErrReleased},
		{[]deja.Event{bar}, confirm(held), uniquename.ErrReleased},
		{[]deja.Event{bar}, release(held), nil},
		{[]deja.Event{bar}, release{Owner: "u1", Until: until.Add(-time.Minute)}, nil},
	} {
		t.Run(row.message.CommandType(), func(t *testing.T) {
			c := ana(t, row.given...).When(row.message)
			if row.refusal != nil {
				c.Rejected(row.refusal)
			} else {
				c.Nothing()
			}
		})
	}
}

// endOfTime can be written in its own zone, and not in UTC.
var endOfTime = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600))

func TestAReleasedClaimIsRefusedWhenItComes(t *testing.T) {
	ana(t, claimed{Owner: "u2", Until: until}).
		When(release(held)).Recorded(released{Owner: "u1", Until: until, At: began}).
		When(claim(held)).Rejected(uniquename.ErrReleased).
		State(uniquename.Name{Owner: "u2", Until: until, Released: map[string]time.Time{"u1": until}})
}

// A timer is late, and what it says holds all the same.
func TestWhatIsOverIsOverBeforeItsTimerFires(t *testing.T) {
	next := claimed{Owner: "u2", Until: until.Add(time.Hour)}
	ana(t, held).
		At(until).
		When(claim(held)).Rejected(uniquename.ErrExpired).
		When(confirm(held)).Rejected(uniquename.ErrExpired).
		When(release(held)).Nothing().
		When(claim(next)).Recorded(expired(held), next).Scheduled("expire", time.Hour).
		When(expire(held)).Nothing()
}

func TestBarsAreForgottenWhenTheirTimeIsOver(t *testing.T) {
	at := until.Add(time.Minute)
	ana(t, released{Owner: "u1", Until: until, At: began}, released{Owner: "u2", Until: at.Add(1000), At: began}).
		At(at).
		When(release{Owner: "u3", Until: at.Add(time.Hour)}).Recorded(released{Owner: "u3", Until: at.Add(time.Hour), At: at}).
		State(uniquename.Name{Released: map[string]time.Time{"u2": at.Add(1000), "u3": at.Add(time.Hour)}})
}

func TestOnlyNormalFormsAreClaimed(t *testing.T) {
	for _, key := range []string{"Ana", "ana b", "änä", "аna"} { // the last with a Cyrillic а
		dejatest.New(t, uniquename.Aggregate[handles](), key).When(claim(held)).Rejected(uniquename.ErrName)
	}
}

func TestASCII(t *testing.T) {
	for name, want := range map[string]string{
		"Ana": "ana", "ana": "ana", "ANA.Z-9_x+y@Example.org": "ana.z-9_x+y@example.org", "42": "42",
		"": "", " ana": "", "ana ": "", "a\tb": "", "änä": "", "ана": "", "a/b": "", "a`": "", "a[": "", "\u212a": "", "a\x00": "", "ı": "",
	} {
		got, err := uniquename.ASCII(name)
		if got != want || (want == "") != errors.Is(err, uniquename.ErrName) {
			t.Errorf("ASCII(%q) = %q, %v", name, got, err)
		}
		if again, err := uniquename.ASCII(got); err == nil && again != got {
			t.Errorf("ASCII(%q) = %q, whose normal form is %q", name, got, again)
		}
	}
}
