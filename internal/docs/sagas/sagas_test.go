package sagas_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/sqlite"
)

func TestATimeOutCancelsTheParcelBeforeTheOrderEnds(t *testing.T) {
	dejatest.New(t, orders(), "o1").
		When(Place{Item: "lamp"}).
		Recorded(Placed{Item: "lamp"}).Sent("o1", Pack{Item: "lamp"}).Scheduled("time-out", 24*time.Hour).
		Fires("time-out").
		Recorded(GivenUp{}).Sent("o1", Cancel{}).
		When(deja.Reply[Pack]{Command: Pack{Item: "lamp"}}).Nothing(). // it was packed after all, too late
		When(deja.Reply[Cancel]{}).
		Recorded(Undone{Why: "cancelled"}).Ended()
}

func TestAParcelThatComesTooLateIsRefused(t *testing.T) {
	dejatest.New(t, parcels(), "o1").
		When(Cancel{}).Recorded(ParcelCancelled{}).
		When(Pack{Item: "lamp"}).Rejected(ErrCancelled).
		When(Cancel{}).Nothing()
}

func TestOtherWaysOfAnOrder(t *testing.T) {
	placed := Placed{Item: "lamp"}
	dejatest.New(t, orders(), "o1").Given(placed).
		When(deja.Reply[Pack]{Rejection: ErrNoStock}).Recorded(Undone{Why: "parcel.stock"}).Cancelled("time-out").
		When(Undo{}).Rejected(ErrPhase)
	dejatest.New(t, orders(), "o1").Given(placed, GivenUp{}).
		When(deja.Reply[Cancel]{Rejection: deja.NewRejection(deja.CodeDead)}).Recorded(Stuck{Why: "deja.dead"}).
		When(Undo{}).Recorded(GivenUp{}).Sent("o1", Cancel{})
	dejatest.New(t, orders(), "o1").Given(placed, Packed{}).
		When(Returned{Order: "o1"}).Effect(Mail{Order: "o1", Text: "we have it back"}).
		When(TimeOut{}).Nothing().
		When(deja.Failed[Mail]{Reason: ErrNoStock}).Nothing().
		When(Place{}).Rejected(ErrPlaced)
}

func TestAnOrderIsPackedOrThereIsNoParcel(t *testing.T) {
	w := dejatest.NewWorld(t, shop(), warehouse())
	w.Perform(mailer(newPost()))
	w.Must(deja.Request{Key: "o1", Command: Place{Item: "lamp"}})
	w.Must(deja.Request{Key: "o2", Command: Place{Item: "unicorn"}})
	w.RedeliverAll()
	w.CrashAtEveryWrite()
	w.Explore(func(w *dejatest.World) error { // time-outs first, replies late, everything twice, a crash here and there
		for _, s := range w.Streams("order") {
			var o Order
			var p Parcel
			w.State(s, &o)
			w.State(deja.Stream{Aggregate: "parcel", Key: s.Key}, &p)
			if there := p.Item != "" && !p.Cancelled; there != (o.Phase == "packed") {
				return fmt.Errorf("%s is %s, and the parcel %+v", s, o.Phase, p)
			}
		}
		return nil
	})
}

// post is a provider in memory.
type post struct {
	mu   sync.Mutex
	sent map[string]string
}

func newPost() *post { return &post{sent: map[string]string{}} }

func (p *post) Send(_ context.Context, key, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[key] = text
	return nil
}

func (p *post) Sent(_ context.Context, key string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[key] != "", nil
}

// texts returns what was sent, some time or other.
func (p *post) texts(t *testing.T, n int) map[string]bool {
	t.Helper()
	for range 6000 {
		p.mu.Lock()
		texts := map[string]bool{}
		for _, text := range p.sent {
			texts[text] = true
		}
		p.mu.Unlock()
		if len(texts) >= n {
			return texts
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("waited in vain for mail")
	return nil
}

func TestBothServicesOverOneFile(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mail := newPost()
	first, err := newShop(db.Log(), db.StoreOf("shop"), mail)
	if err != nil {
		t.Fatal(err)
	}
	second, err := engine.New(engine.Config{Service: warehouse(), Log: db.Log(), Store: db.StoreOf("warehouse")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, e := range []*engine.Engine{first, second} {
		running.Go(func() { _ = e.Run(ctx) })
	}
	for _, c := range []struct{ key, item, end string }{
		{"o1", "lamp", "order.packed"}, {"o2", "unicorn", "order.undone"}, {"o1", "lamp", "order.packed"},
	} {
		if end, err := buy(ctx, first.Client(), c.key, c.item); err != nil || end != c.end {
			t.Errorf("%s: %s, %v, want %s", c.key, end, err, c.end)
		}
	}
	out, err := second.Client().Do(ctx, deja.Request{Key: "north", Command: Return{Order: "o1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Client().Await(ctx, out.Position); err != nil { // what is read now is as new as that, or newer
		t.Fatal(err)
	}
	if texts := mail.texts(t, 2); !texts["lamp is on its way"] || !texts["we have it back"] {
		t.Errorf("mail: %v", texts)
	}
}
