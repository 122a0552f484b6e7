package engine

import (
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/wire"
)

// One that waits for an event of its command's decision, or of a later one, sees it behind however many before.
func TestAWatcherSeesTheNewest(t *testing.T) {
	w := &watcher{types: []string{"order.packed"}, told: make(chan struct{}, 1)}
	const last = 2*maxSeen + 1
	for n := int64(1); n <= last; n++ {
		w.see(&wire.Record{N: n, Decided: deja.Decided{Events: []deja.Envelope{{Type: "order.packed"}}}})
	}
	if got := w.seen[len(w.seen)-1].N; got != last || len(w.seen) > maxSeen {
		t.Errorf("it has %d, the last one %d, want %d at most, and %d", len(w.seen), got, maxSeen, last)
	}
}
