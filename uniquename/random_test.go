package uniquename_test

import (
	"errors"
	"flag"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/uniquename"
)

var seedFlag = flag.Uint64("seed", 0, "repeat the random test with this seed")

// Whatever the order, the repetitions and the delays of messages and timers: the name answers as a model that remembers
// everything and has no timers, and is one claim's at most.
func TestAnyOrderOfMessages(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat: go test ./uniquename -run '^%s$' -seed=%d", t.Name(), seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		p := newPlay(t, r)
		for range 300 {
			p.step()
		}
	}
}

// model is a name that forgets nothing.
type model struct {
	holder    claim
	confirmed bool
	releases  []release
}

func (m *model) decide(c deja.Command, at time.Time) error {
	if !m.confirmed && !at.Before(m.holder.Until) {
		m.holder = claim{}
	}
	switch c := c.(type) {
	case claim:
		switch {
		case m.holder == c:
		case m.released(c):
			return uniquename.ErrReleased
		case !at.Before(c.Until):
			return uniquename.ErrExpired
		case m.holder != claim{}:
			return uniquename.ErrTaken
		}
		m.holder = c
	case confirm:
		switch {
		case m.holder == claim(c):
			m.confirmed = true
		case m.released(claim(c)):
			return uniquename.ErrReleased
		case !at.Before(c.Until):
			return uniquename.ErrExpired
		default:
			return uniquename.ErrUnclaimed
		}
	case release:
		m.releases = append(m.releases, c)
		if m.released(m.holder) {
			m.holder, m.confirmed = claim{}, false
		}
	}
	return nil
}

func (m *model) released(c claim) bool {
	for _, r := range m.releases {
		if r.Owner == c.Owner && !c.Until.After(r.Until) {
			return true
		}
	}
	return false
}

// play is one name under random messages, and the model beside it.
type play struct {
	t        *testing.T
	r        *rand.Rand
	m        *deja.Machine
	st       *deja.State
	model    model
	at       time.Time
	claims   []claim // that somebody knows of, whether their messages came or not
	timer    *deja.Timer
	messages int
}

func newPlay(t *testing.T, r *rand.Rand) *play {
	t.Helper()
	p := &play{t: t, r: r, at: began}
	var err error
	p.m, err = deja.Compile(&deja.Service{Name: "users", Aggregates: []deja.AnyAggregate{uniquename.Aggregate[handles]()}})
	if err == nil {
		p.st, err = p.m.NewState(deja.Stream{Aggregate: "handles", Key: "ana"})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// step lets time pass, and then one message come.
func (p *play) step() {
	p.at = p.at.Add(time.Duration(p.r.ExpFloat64() * float64(5*time.Minute)).Truncate(time.Microsecond))
	if p.timer != nil && !p.at.Before(p.timer.Due) && p.r.IntN(2) == 0 {
		timer := p.timer
		p.timer = nil
		msg, err := p.m.Decode(&timer.Command)
		if err != nil {
			p.t.Fatal(err)
		}
		p.send(msg.(deja.Command))
		return
	}
	if len(p.claims) == 0 || p.r.IntN(4) == 0 {
		p.claims = append(p.claims, claim{
			Owner: "u" + strconv.Itoa(p.r.IntN(3)),
			Until: p.at.Add(time.Duration(1+p.r.IntN(60)) * time.Minute),
		})
		return
	}
	c := p.claims[len(p.claims)-1-p.r.IntN(min(len(p.claims), 12))]
	switch p.r.IntN(8) {
	case 0, 1, 2:
		p.send(c)
	case 3, 4:
		p.send(confirm(c))
	case 5, 6:
		p.send(release(c))
	case 7:
		p.send(expire(c))
	}
}

func (p *play) send(c deja.Command) {
	p.t.Helper()
	p.messages++
	env := &deja.Envelope{
		ID: deja.DeriveID("play", strconv.Itoa(p.messages)), Kind: deja.KindCommand, Type: c.CommandType(), Stream: p.st.Stream,
	}
	want, got := p.model.decide(c, p.at), p.m.Decide(p.st, env, c, p.at)
	switch {
	case got.Status == deja.Applied && want == nil:
	case got.Status == deja.Rejected && errors.Is(&got.Reason, want):
	case got.Status == deja.Rejected && errors.Is(&got.Reason, uniquename.ErrExpired) && errors.Is(want, uniquename.ErrReleased) && p.over(c):
	default:
		p.t.Fatalf("message %d at %s: %T %+v: %s %v, and the model says %v\n%+v", p.messages, p.at, c, c, got.Status, got.Reason, want, *p.state())
	}
	for i := range got.Events {
		if err := p.m.Fold(p.st, &got.Events[i]); err != nil {
			p.t.Fatal(err)
		}
	}
	if len(got.Cancelled) > 0 {
		p.timer = nil
	}
	for i := range got.Timers {
		p.timer = &got.Timers[i]
	}
	p.check()
}

// over reports whether a claim's time is over, so that a name need not know any more that it was released.
func (p *play) over(c deja.Command) bool {
	switch c := c.(type) {
	case claim:
		return !p.at.Before(c.Until)
	case confirm:
		return !p.at.Before(c.Until)
	}
	return false
}

func (p *play) state() *uniquename.Name { return p.st.Value().(*uniquename.Name) }

// check compares the name with the model, and with what must hold of any name.
func (p *play) check() {
	p.t.Helper()
	s := p.state()
	holder := claim{s.Owner, s.Until}
	if !s.Confirmed && !p.at.Before(s.Until) {
		holder = claim{}
	}
	if holder != p.model.holder || s.Confirmed != p.model.confirmed || len(s.Released) > 3 {
		p.t.Fatalf("message %d at %s: the model has %+v, the name is %+v", p.messages, p.at, p.model, *s)
	}
	waits := s.Owner != "" && !s.Confirmed && p.at.Before(s.Until)
	if waits != (p.timer != nil && p.at.Before(p.timer.Due)) {
		p.t.Fatalf("message %d at %s: the timer is %+v, the name %+v", p.messages, p.at, p.timer, *s)
	}
}
