package reservation_test

import (
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/reservation"
)

var seedFlag = flag.Uint64("seed", 0, "repeat the random test with this seed")

// Whatever the order, the repetitions and the delays of messages and timers: the pool answers as a model that remembers
// everything and has no timers, and never holds and confirms more than there is.
func TestAnyOrderOfMessages(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat: go test ./reservation -run '^%s$' -seed=%d", t.Name(), seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		p := newPlay(t, r)
		for range 400 {
			p.step()
		}
		p.end()
	}
}

// fate is what became of a reservation, as far as messages came. One that is held and over has expired.
type fate struct {
	amount int64
	until  time.Time
	status reservation.Status // "" if none came
}

// model is a pool that forgets nothing.
type model struct {
	supply int64
	fates  map[string]*fate
}

func (m *model) fate(id string, at time.Time) *fate {
	f, ok := m.fates[id]
	if !ok {
		f = &fate{}
		m.fates[id] = f
	}
	if f.status == reservation.StatusHeld && !at.Before(f.until) {
		f.status = reservation.StatusExpired
	}
	return f
}

func (m *model) sum(at time.Time, s reservation.Status) (n int64) {
	for id := range m.fates {
		if f := m.fate(id, at); f.status == s {
			n += f.amount
		}
	}
	return n
}

func (m *model) free(at time.Time) int64 {
	return m.supply - m.sum(at, reservation.StatusHeld) - m.sum(at, reservation.StatusConfirmed)
}

// decide returns the refusal that the command deserves, or nil, and what becomes of it.
func (m *model) decide(c deja.Command, at time.Time) error {
	switch c := c.(type) {
	case supply:
		if c.Amount < 0 && -c.Amount > m.free(at) {
			return reservation.ErrShort
		}
		m.supply += c.Amount
	case reserve:
		return m.reserve(m.fate(c.ID, at), c, at)
	case confirm:
		f := m.fate(c.ID, at)
		switch f.status {
		case "":
			return reservation.ErrUnknown
		case reservation.StatusCancelled:
			return reservation.ErrCancelled
		case reservation.StatusExpired:
			return reservation.ErrExpired
		}
		f.status = reservation.StatusConfirmed
	case cancel:
		f := m.fate(c.ID, at)
		switch f.status {
		case "":
			if at.Before(c.Until) {
				*f = fate{until: c.Until, status: reservation.StatusCancelled}
			}
		case reservation.StatusHeld:
			f.status = reservation.StatusCancelled
		case reservation.StatusConfirmed:
			return reservation.ErrConfirmed
		}
	}
	return nil
}

func (m *model) reserve(f *fate, c reserve, at time.Time) error {
	switch f.status {
	case "":
		if !at.Before(c.Until) {
			return reservation.ErrExpired
		}
		if c.Amount > m.free(at) {
			return reservation.ErrShort
		}
		*f = fate{c.Amount, c.Until, reservation.StatusHeld}
	case reservation.StatusCancelled:
		return reservation.ErrCancelled
	case reservation.StatusExpired:
		return reservation.ErrExpired
	default:
		if f.amount != c.Amount {
			return reservation.ErrDiffers
		}
	}
	return nil
}

// play is one pool under random messages, and the model beside it.
type play struct {
	t        *testing.T
	r        *rand.Rand
	m        *deja.Machine
	st       *deja.State
	model    model
	remember time.Duration
	at       time.Time
	asked    []reserve            // the reservations that somebody knows of, whether their messages came or not
	timers   map[string]time.Time // pending, by name
	messages int
}

func newPlay(t *testing.T, r *rand.Rand) *play {
	t.Helper()
	p := &play{
		t: t, r: r, at: began, model: model{fates: map[string]*fate{}}, timers: map[string]time.Time{},
		remember: time.Duration(r.IntN(4)) * time.Hour,
	}
	var err error
	p.m, err = deja.Compile(&deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{reservation.Aggregate[seats](p.remember)}})
	if err == nil {
		p.st, err = p.m.NewState(deja.Stream{Aggregate: "seats", Key: "hamlet"})
	}
	if err != nil {
		t.Fatal(err)
	}
	p.send(supply{Amount: 5 + r.Int64N(20)})
	return p
}

// step lets time pass, and then one message come.
func (p *play) step() {
	p.at = p.at.Add(time.Duration(p.r.ExpFloat64() * float64(4*time.Minute)).Truncate(time.Microsecond))
	switch n := p.r.IntN(20); {
	case n == 0:
		p.send(supply{Amount: 1 + p.r.Int64N(3)})
	case n == 1:
		p.send(supply{Amount: -1 - p.r.Int64N(3)})
	case n < 5:
		p.fire()
	case n < 9 || len(p.asked) == 0:
		p.asked = append(p.asked, reserve{
			ID:     "r" + strconv.Itoa(len(p.asked)),
			Amount: 1 + p.r.Int64N(4),
			Until:  p.at.Add(time.Duration(1+p.r.IntN(120)) * time.Minute),
		})
	default:
		p.about(p.asked[len(p.asked)-1-p.r.IntN(min(len(p.asked), 40))])
	}
}

// about sends a message about a reservation.
func (p *play) about(a reserve) {
	switch p.r.IntN(8) {
	case 0, 1, 2:
		p.send(a)
	case 3:
		a.Amount++
		p.send(a)
	case 4, 5:
		p.send(confirm{ID: a.ID})
	case 6:
		p.send(cancel{ID: a.ID, Until: a.Until})
	case 7:
		p.send(expire{ID: a.ID})
	}
}

// fire lets one of the timers that are due fire, not always the first.
func (p *play) fire() {
	for _, name := range slices.Sorted(maps.Keys(p.timers)) {
		if !p.at.Before(p.timers[name]) && p.r.IntN(2) == 0 {
			delete(p.timers, name)
			p.send(expire{ID: name[len("expire/"):]})
			return
		}
	}
}

func (p *play) send(c deja.Command) {
	p.t.Helper()
	p.messages++
	env := &deja.Envelope{
		ID: deja.DeriveID("play", strconv.Itoa(p.messages)), Kind: deja.KindCommand, Type: c.CommandType(), Stream: p.st.Stream,
	}
	known := p.state().Holds.ByID // as it was: deciding does not change it
	want, got := p.model.decide(c, p.at), p.m.Decide(p.st, env, c, p.at)
	switch {
	case got.Status == deja.Applied && want == nil:
	case got.Status == deja.Rejected && errors.Is(&got.Reason, want):
	case got.Status == deja.Rejected && p.mayHaveForgotten(known, c, &got.Reason):
	default:
		p.t.Fatalf("message %d at %s: %T %+v: %s %v, and the model says %v\n%+v", p.messages, p.at, c, c, got.Status, got.Reason, want, *p.state())
	}
	for i := range got.Events {
		if err := p.m.Fold(p.st, &got.Events[i]); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, name := range got.Cancelled {
		delete(p.timers, name)
	}
	for _, timer := range got.Timers {
		p.timers[timer.Name] = timer.Due
	}
	p.check()
}

// mayHaveForgotten reports whether a refusal is that of a pool which need not know the reservation any more.
func (p *play) mayHaveForgotten(known map[string]reservation.Hold, c deja.Command, got error) bool {
	var id string
	refusal := reservation.ErrUnknown
	switch c := c.(type) {
	case reserve:
		id, refusal = c.ID, reservation.ErrExpired
	case confirm:
		id = c.ID
	case cancel:
		id = c.ID
	}
	i := slices.IndexFunc(p.asked, func(a reserve) bool { return a.ID == id })
	_, knows := known[id]
	return i >= 0 && !knows && errors.Is(got, refusal) && !p.at.Before(p.asked[i].Until.Add(p.remember))
}

func (p *play) state() *reservation.Pool { return p.st.Value().(*reservation.Pool) }

// check compares the pool with the model, and with what must hold of any pool.
func (p *play) check() {
	p.t.Helper()
	s := p.state()
	var sum, over int64
	for id, h := range s.Holds.ByID {
		if h.Status != reservation.StatusHeld {
			continue
		}
		sum += h.Amount
		if !p.at.Before(h.Until) {
			over += h.Amount
		}
		if due, ok := p.timers["expire/"+id]; !ok && p.at.Before(h.Until) || ok && !due.Equal(h.Until) {
			p.t.Fatalf("message %d: %s is held until %s, and its timer is due at %s", p.messages, id, h.Until, due)
		}
	}
	for name, due := range p.timers { // one that is due may find that its work was done
		if s.Holds.ByID[name[len("expire/"):]].Status != reservation.StatusHeld && p.at.Before(due) {
			p.t.Fatalf("message %d: timer %s is of nothing that is held", p.messages, name)
		}
	}
	if s.Supply != p.model.supply || s.Holds.Sum != sum || s.Holds.Sum+s.Confirmed > s.Supply ||
		s.Confirmed != p.model.sum(p.at, reservation.StatusConfirmed) || s.Free()+over != p.model.free(p.at) {
		p.t.Fatalf("message %d at %s: the model has %d of %d free; the pool %+v", p.messages, p.at, p.model.free(p.at), p.model.supply, *s)
	}
}

// end lets all timers fire; nothing is held then.
func (p *play) end() {
	p.t.Helper()
	p.at = p.at.Add(24 * time.Hour)
	for _, name := range slices.Sorted(maps.Keys(p.timers)) {
		delete(p.timers, name)
		p.send(expire{ID: name[len("expire/"):]})
	}
	p.send(cancel{ID: "last", Until: p.at.Add(time.Hour)}) // and forgets
	if s := p.state(); s.Holds.Sum != 0 || len(s.Holds.ByID) != 1 {
		p.t.Fatalf("after all is over the pool is %+v", *s)
	}
}
