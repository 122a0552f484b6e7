package drivertest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	caseLimit   = 60 * time.Second      // a call that hangs fails its case
	aMoment     = 30 * time.Millisecond // enough for what must not happen to happen, most times
	answerLimit = 16 << 20              // bytes of one answer
	plenty      = 1_000_000             // more than any case writes
)

// Tests of the cases themselves have them shorter.
var (
	fetchLimit = 30 * time.Second // a record that was promised comes sooner, on a machine that is busy, or is lost
	waitLimit  = 30 * time.Second // a time to live of a second has run out by then
)

// bench is what one case works on.
type bench struct {
	*testing.T
	h              Harness
	ctx            context.Context //nolint:containedctx // a case is one call, and this is its limit
	cancel         context.CancelFunc
	log            driver.Log
	store          driver.Store
	inbox, journal driver.Topic
	page           int // of a reading by pages: small, so that it is paged
}

// connect returns a bench without topics. The caller closes it.
func connect(t *testing.T, h Harness) *bench {
	t.Helper()
	b := &bench{T: t, h: h, page: 3}
	b.ctx, b.cancel = context.WithTimeout(t.Context(), caseLimit)
	b.log, b.store = h.Open(t)
	return b
}

func (b *bench) close() {
	b.cancel()
	if b.store != nil {
		b.must(b.store.Close())
	}
	if b.log != nil {
		b.must(b.log.Close())
	}
}

func open(t *testing.T, h Harness) *bench {
	t.Helper()
	b := connect(t, h)
	t.Cleanup(b.close)
	service := "drivertest-" + deja.NewID().String()
	b.inbox, b.journal = b.topic(service+".inbox"), b.topic(service+".journal")
	return b
}

// fresh returns a bench on a log and a store of its own, for one part of a case.
func (b *bench) fresh() *bench { return open(b.T, b.h) }

func (b *bench) topic(name string) driver.Topic {
	b.Helper()
	if b.log == nil { // a store believes what it is told of topics
		return driver.Topic{Name: name, Cluster: "none", ID: name, Partitions: 2, MaxRecord: 1 << 20}
	}
	if b.h.Create != nil {
		b.h.Create(b.T, b.log, name)
	}
	topic, err := b.log.Topic(b.ctx, name)
	b.must(err)
	return topic
}

// reopen goes on as another process; it leaves things as they are where the driver cannot.
func (b *bench) reopen() {
	if b.h.Reopen != nil {
		b.log, b.store = b.h.Reopen(b.T, b.log, b.store)
	}
}

// roll begins a new segment of the ledger where the driver has them.
func (b *bench) roll() {
	if b.h.Roll != nil {
		b.h.Roll(b.T, b.store)
	}
}

// until waits for what comes with time; what does not come fails the case.
func (b *bench) until(what string, done func() bool) {
	b.Helper()
	limit := time.Now().Add(waitLimit)
	for over := false; !done(); over = time.Now().After(limit) {
		if over { // before it was asked the last time
			b.Fatalf("waited %s in vain for %s", waitLimit, what)
		}
		time.Sleep(aMoment)
	}
}

func (b *bench) joint() bool {
	j, ok := b.store.(driver.Joint)
	return ok && b.log != nil && j.Joint(b.log)
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// want fails the case unless err wraps target.
func (b *bench) want(err, target error) {
	b.Helper()
	if !errors.Is(err, target) {
		b.Fatalf("got error %v, want %v", err, target)
	}
}

// equal fails the case unless two values are the same, in depth.
func equal[T any](b *bench, what string, got, want T) {
	b.Helper()
	if !reflect.DeepEqual(got, want) {
		b.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// utc checks that a time is as contracts want it, and returns it for comparison.
func (b *bench) utc(t time.Time) time.Time {
	b.Helper()
	if t.Location() != time.UTC || !t.Equal(t.Truncate(time.Microsecond)) {
		b.Errorf("time %s is not in UTC and of whole microseconds", t.Format(time.RFC3339Nano))
	}
	return t.UTC()
}
