package route

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/wire"
)

// A Topology says with whom a service exchanges messages.
type Topology struct {
	Targets []string // the services whose inboxes its own journal is carried into; sorted
	Sources []string // the other services whose journals are carried into its own inbox; sorted
	Routes  string   // names the events that its aggregates react to; empty if there are none
}

// NewTopology returns a service's topology; peers say which service owns an aggregate of another service.
func NewTopology(m *deja.Machine, peers map[string]string) Topology {
	owners := func(aggregates []string) []string {
		var services []string
		for _, a := range aggregates {
			services = append(services, cmp.Or(peers[a], m.Name()))
		}
		return services
	}
	sends, replies, events := m.Counterparts()
	var t Topology
	t.Targets = owners(sends)
	if t.Sources = owners(slices.Concat(replies, events)); slices.Contains(t.Sources, m.Name()) {
		t.Targets = append(t.Targets, m.Name())
		t.Sources = slices.DeleteFunc(t.Sources, func(s string) bool { return s == m.Name() })
	}
	slices.Sort(t.Targets)
	slices.Sort(t.Sources)
	t.Targets, t.Sources = slices.Compact(t.Targets), slices.Compact(t.Sources)
	if routes := m.Routes(); len(routes) > 0 {
		sum := sha256.Sum256([]byte(strings.Join(routes, "\n")))
		t.Routes = fmt.Sprintf("%x", sum[:8])
	}
	return t
}

// Reader names the cursors of a service's routes into an inbox, of each partition of a journal.
func Reader(service, to string) string { return service + ".route." + to }

// Record returns the record of a message in an inbox of so many partitions.
func Record(m *deja.Envelope, partitions int32) driver.Record {
	return driver.Record{
		Partition: place.Partition(m.Stream.Key, partitions), Key: m.Stream.Key,
		Value: wire.AppendMessage(make([]byte, 0, 256), m), Headers: wire.MessageHeaders(m),
	}
}
