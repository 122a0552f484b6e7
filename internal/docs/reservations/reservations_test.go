package reservations

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/reservation"
	"github.com/dejalog/deja/sqlite"
	"github.com/dejalog/deja/uniquename"
)

// began is when a case begins.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestAnOrderTakesItsSeats(t *testing.T) {
	until := began.Add(15 * time.Minute)
	dejatest.New(t, Orders(), "o1").
		When(Place{Show: "hamlet", Seats: 2}).
		Recorded(Placed{Show: "hamlet", Seats: 2, Until: until}).
		Sent("hamlet", reservation.Reserve[Seats]{ID: "o1", Amount: 2, Until: until}).Scheduled("unpaid", 15*time.Minute).
		When(deja.Reply[reservation.Reserve[Seats]]{}).Recorded(Held{}).
		When(Pay{}).Recorded(Paid{}).Sent("hamlet", reservation.Confirm[Seats]{ID: "o1"}).Cancelled("unpaid").
		When(GiveUp{}).Rejected(ErrPhase).
		When(deja.Reply[reservation.Confirm[Seats]]{}).Recorded(Done{})
}

func TestAnOrderThatIsRefused(t *testing.T) {
	placed := Placed{Show: "hamlet", Seats: 2, Until: began}
	dejatest.New(t, Orders(), "o1").Given(placed).
		When(deja.Reply[reservation.Reserve[Seats]]{Rejection: reservation.ErrShort}).
		Recorded(Failed{Why: "reservation.short"}).Cancelled("unpaid").
		When(Pay{}).Rejected(ErrPhase)
	dejatest.New(t, Orders(), "o1").Given(placed, Held{}, Paid{}).
		When(deja.Reply[reservation.Confirm[Seats]]{Rejection: reservation.ErrExpired}).Recorded(Failed{Why: "reservation.expired"})
}

func TestAnOrderThatIsGivenUp(t *testing.T) {
	given := func() *dejatest.Case[Order] {
		return dejatest.New(t, Orders(), "o1").Given(Placed{Show: "hamlet", Seats: 2, Until: began}).
			When(GiveUp{}).Recorded(GivenUp{}).Sent("hamlet", reservation.Cancel[Seats]{ID: "o1", Until: began}).
			When(deja.Reply[reservation.Reserve[Seats]]{}).Nothing()
	}
	given().When(deja.Reply[reservation.Cancel[Seats]]{}).Recorded(Failed{Why: "given up"})
	given().When(deja.Reply[reservation.Cancel[Seats]]{Rejection: reservation.ErrUnknown}).Recorded(Stuck{Why: "reservation.unknown"})
}

func TestMoneyIsHeldAndCaptured(t *testing.T) {
	until := began.Add(time.Hour)
	hold := Hold{ID: "p1", Amount: 60, Until: until}
	held := func() *dejatest.Case[Account] {
		return dejatest.New(t, Accounts(), "ana").Given(Deposited{Amount: 100}).
			When(hold).Recorded(Blocked(hold)).Scheduled("hold/p1", time.Hour).
			When(hold).Nothing().
			When(Hold{ID: "p2", Amount: 41, Until: until}).Rejected(ErrFunds)
	}
	held().
		When(Capture{ID: "p1"}).Recorded(Captured{ID: "p1"}).Cancelled("hold/p1").
		When(Release{ID: "p1", Until: until}).Rejected(reservation.ErrConfirmed).
		State(Account{Balance: 40, Holds: reservation.Holds{ByID: map[string]reservation.Hold{
			"p1": {Amount: 60, Until: until, Status: reservation.StatusConfirmed},
		}}})
	held().
		When(Release{ID: "p1", Until: until}).Recorded(Released{ID: "p1", Until: until}).
		When(Capture{ID: "p1"}).Rejected(reservation.ErrCancelled)
	held().
		At(until).
		When(Capture{ID: "p1"}).Rejected(reservation.ErrExpired).
		When(Lapse{ID: "p1"}).Recorded(Lapsed{ID: "p1"}).
		When(Lapse{ID: "p1"}).Nothing()
	dejatest.New(t, Accounts(), "ana").Given(Deposited{Amount: 100}).
		When(Release{ID: "p1", Until: until}).Recorded(Released{ID: "p1", Until: until}).
		When(hold).Rejected(reservation.ErrCancelled).
		At(until.Add(24*time.Hour)).
		When(Hold{ID: "p2", Amount: 1, Until: until.Add(48 * time.Hour)}).
		Recorded(Forgotten{Until: until}, Blocked{ID: "p2", Amount: 1, Until: until.Add(48 * time.Hour)})
}

func TestAHandleIsClaimedSetAndReleased(t *testing.T) {
	old, next := Handle{Key: "ana", Until: began.Add(-time.Hour)}, Handle{Key: "eva", Until: began.Add(10 * time.Minute)}
	given := func() *dejatest.Case[User] {
		return dejatest.New(t, Users(), "u1").Given(Renaming{Next: old}, Renamed{})
	}
	claim := uniquename.Claim[Handles]{Owner: "u1", Until: next.Until}
	given().
		When(Rename{Handle: "ana b"}).Rejected(uniquename.ErrName).
		When(Rename{Handle: "Ana"}).Nothing().
		When(Rename{Handle: "Eva"}).Recorded(Renaming{Next: next}).Sent("eva", claim).
		When(Rename{Handle: "Ida"}).Rejected(ErrBusy).
		When(deja.Reply[uniquename.Claim[Handles]]{Command: claim}).Sent("eva", uniquename.Confirm[Handles](claim)).
		When(deja.Reply[uniquename.Confirm[Handles]]{}).
		Recorded(Renamed{}).Sent("ana", uniquename.Release[Handles]{Owner: "u1", Until: old.Until}).
		State(User{Handle: next})
	given().Given(Renaming{Next: next}).
		When(deja.Reply[uniquename.Claim[Handles]]{Rejection: uniquename.ErrTaken}).Recorded(NotRenamed{Why: "uniquename.taken"}).
		State(User{Handle: old})
	given().Given(Renaming{Next: next}).
		When(deja.Reply[uniquename.Confirm[Handles]]{Rejection: uniquename.ErrExpired}).Recorded(NotRenamed{Why: "uniquename.expired"}).
		State(User{Handle: old})
}

// run runs a service on a file of its own until the test ends.
func run(t *testing.T, s *deja.Service) deja.Client {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), s.Name+".db"))
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(engine.Config{Service: s, Log: db.Log(), Store: db.Store()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := eng.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return eng.Client()
}

func do(t *testing.T, c deja.Client, r deja.Request) deja.Outcome {
	t.Helper()
	out, err := c.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("%s of %s: %v", r.Command.CommandType(), r.Key, err)
	}
	return out
}

// Five orders of a seat each, of which there are three; one of those who have one gives it up for the next.
func TestOrdersTakeNoMoreSeatsThanThereAre(t *testing.T) {
	c := run(t, boxoffice())
	do(t, c, deja.Request{Key: "hamlet", Command: reservation.Supply[Seats]{Amount: 3}})
	place := func(order string) string {
		out := do(t, c, deja.Request{Key: order, Command: Place{Show: "hamlet", Seats: 1}, Until: deja.AtEvent(Held{}, Failed{})})
		return out.Reached.Type
	}
	var held []string
	for i := range 5 {
		if order := fmt.Sprint("o", i); place(order) == "order.held" {
			held = append(held, order)
		}
	}
	if len(held) != 3 {
		t.Fatalf("%v have a seat", held)
	}
	do(t, c, deja.Request{Key: held[0], Command: GiveUp{}, Until: deja.AtEnd()})
	if got := place("next"); got != "order.held" {
		t.Fatalf("the order after one was given up: %s", got)
	}
	for _, order := range []string{held[1], held[2], "next"} {
		if out := do(t, c, deja.Request{Key: order, Command: Pay{}, Until: deja.AtEnd()}); out.Reached.Type != "order.done" {
			t.Errorf("%s ended with %s", order, out.Reached.Type)
		}
	}
	var p reservation.Pool
	if _, err := c.State(t.Context(), deja.Stream{Aggregate: "seats", Key: "hamlet"}, &p); err != nil {
		t.Fatal(err)
	}
	if p.Confirmed != 3 || p.Free() != 0 {
		t.Errorf("the pool is %+v", p)
	}
}

// Two users want one handle; who comes too late has it once it is given back.
func TestAHandleIsOneUsersAtATime(t *testing.T) {
	c := run(t, users())
	for _, step := range []struct{ user, handle, want string }{
		{"u1", "Ana", "user.renamed"},
		{"u2", "ana", "user.not-renamed"},
		{"u1", "Eva", "user.renamed"},
		{"u1", "ana", "user.renamed"}, // and back
		{"u1", "eva", "user.renamed"},
		{"u2", "ANA", "user.renamed"},
	} {
		out := do(t, c, deja.Request{Key: step.user, Command: Rename{Handle: step.handle}, Until: deja.AtEnd()})
		if out.Reached.Type != step.want {
			t.Fatalf("%s to %s: %s", step.user, step.handle, out.Reached.Type)
		}
	}
	for key, want := range map[string]string{"ana": "u2", "eva": "u1"} {
		var n uniquename.Name
		if _, err := c.State(t.Context(), deja.Stream{Aggregate: "handles", Key: key}, &n); err != nil || n.Owner != want || !n.Confirmed {
			t.Errorf("%s is %+v, %v", key, n, err)
		}
	}
}

// The orders of one service and the seats of another, all messages again and crashes at all calls: an order is paid, one
// is given up, one is refused, and one is never paid.
func TestOrdersAndSeatsOfTwoServices(t *testing.T) {
	w := dejatest.NewWorld(t,
		&deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{Orders()}},
		&deja.Service{Name: "hall", Aggregates: []deja.AnyAggregate{reservation.Aggregate[Seats](24 * time.Hour)}},
	)
	w.Must(deja.Request{Key: "hamlet", Command: reservation.Supply[Seats]{Amount: 5}})
	place := func(order string, seats int64) {
		w.Must(deja.Request{Key: order, Command: Place{Show: "hamlet", Seats: seats}})
	}
	place("paid", 1)
	w.Must(deja.Request{Key: "paid", Command: Pay{}, Until: deja.AtEnd()})
	place("given up", 4)
	w.Must(deja.Request{Key: "given up", Command: GiveUp{}, Until: deja.AtEnd()})
	place("unpaid", 4)
	place("refused", 1)
	w.Advance(15 * time.Minute)
	for order, want := range map[string]string{"paid": "done", "given up": "failed", "unpaid": "failed", "refused": "failed"} {
		var o Order
		if w.State(deja.Stream{Aggregate: "order", Key: order}, &o); o.Phase != want {
			t.Errorf("order %s is %s", order, o.Phase)
		}
	}
	var p reservation.Pool
	w.State(deja.Stream{Aggregate: "seats", Key: "hamlet"}, &p)
	if p.Confirmed != 1 || p.Free() != 4 {
		t.Errorf("the pool is %+v", p)
	}
	w.RedeliverAll()
	if !testing.Short() {
		w.CrashAtEveryWrite()
	}
}
