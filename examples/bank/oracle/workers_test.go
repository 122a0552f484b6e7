package oracle_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// owners returns who holds how many partitions.
func owners(leases []driver.Lease) map[deja.ID]int {
	held := map[deja.ID]int{}
	for _, l := range leases {
		if l.Held {
			held[l.Owner]++
		}
	}
	return held
}

// shared waits until so many processes hold all partitions, and returns the leases as they are then.
func (s *servers) shared(t *testing.T, processes int) (leases []driver.Lease) {
	t.Helper()
	await(t, "the partitions are shared", func() bool {
		leases = s.leases(t.Context())
		return len(leases) == int(s.partitions) && len(owners(leases)) == processes &&
			!slices.ContainsFunc(leases, func(l driver.Lease) bool { return !l.Held })
	})
	return leases
}

// A worker is killed, one is frozen for longer than its leases last and wakes up, one is told to stop: nothing is lost,
// and nothing done twice.
func TestWorkersThatDieFreezeAndStopChangeNothing(t *testing.T) {
	o, rng := shipped(t), newRand(t)
	b := newBusy(t, rng.Uint64(), 14*time.Second)
	pause := func() { time.Sleep(time.Duration(rng.Int64N(int64(500 * time.Millisecond)))) }

	b.shared(t, 2)
	b.reach(t, 1)
	pause()
	b.workers[0].signal(t, syscall.SIGKILL)
	if b.workers[0].wait(t); b.workers[0].cmd.ProcessState.Success() {
		t.Error("a killed worker ended well")
	}
	t.Logf("killed when %d of the inbox were handled", b.handled(t.Context()))
	alone := b.shared(t, 1)[0].Owner
	b.workers[0] = b.worker(t)
	b.shared(t, 2)
	pause()

	b.workers[1].signal(t, syscall.SIGSTOP)
	frozen := b.handled(t.Context())
	await(t, "the frozen worker's partitions are another's", func() bool {
		held := owners(b.leases(t.Context()))
		return held[alone] == 0 && len(held) == 1
	})
	for _, l := range b.shared(t, 1) {
		if l.Owner == alone {
			t.Errorf("partition %d is still the frozen worker's", l.Partition)
		}
	}
	b.reach(t, frozen+1)
	b.workers[1].signal(t, syscall.SIGCONT)
	b.shared(t, 2) // it takes its part again, under new leases
	t.Logf("frozen from %d to %d of the inbox", frozen, b.handled(t.Context()))
	pause()

	b.workers[0].stop(t)
	t.Logf("stopped at %d of the inbox", b.handled(t.Context()))
	others := func(l driver.Lease) bool { return l.Owner != alone }
	for end := time.Now().Add(patience); slices.ContainsFunc(b.shared(t, 1), others); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) { // the one that stopped is named until somebody else has taken over
			t.Fatalf("%s has not taken all partitions over: %+v", alone, b.shared(t, 1))
		}
	}
	b.fed()
	b.wantWhole(t, o)
	b.workers[1].stop(t)
}
