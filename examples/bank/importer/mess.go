package importer

import (
	"math/rand/v2"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/berka"
)

const (
	waitingRoom = 256  // deliveries that wait to come again; the more, the later they come
	maxHeld     = 4096 // deliveries held back until after the restart
	heldPart    = 0.2  // of all that come again
)

// mess makes a mess of a delivery, the same with each seed, and in bounded memory.
type mess struct {
	cfg     Config
	rand    *rand.Rand
	waiting []berka.Transaction
	held    []berka.Transaction
	altered []berka.Transaction // a uniform sample of all seen, to be sent with another amount
	seen    int
}

func newMess(cfg Config) *mess {
	return &mess{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0))}
}

// next sees a transaction go by, and returns one that is to be delivered again behind it, if there is any.
func (m *mess) next(t berka.Transaction) (again berka.Transaction, ok bool) {
	m.sample(t)
	if m.rand.Float64() >= m.cfg.Redeliver {
		return again, false
	}
	if m.rand.Float64() < heldPart && len(m.held) < maxHeld {
		m.held = append(m.held, t)
		return again, false
	}
	if len(m.waiting) < waitingRoom {
		m.waiting = append(m.waiting, t)
		return again, false
	}
	i := m.rand.IntN(len(m.waiting))
	again, m.waiting[i] = m.waiting[i], t
	return again, true
}

// sample gives every transaction the same chance to be among those altered.
func (m *mess) sample(t berka.Transaction) {
	m.seen++
	if len(m.altered) < m.cfg.Conflicts {
		m.altered = append(m.altered, t)
	} else if i := m.rand.IntN(m.seen); i < len(m.altered) {
		m.altered[i] = t
	}
}

// rest returns those that still wait when all have gone by.
func (m *mess) rest() []berka.Transaction {
	rest := m.waiting
	m.waiting = nil
	m.rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return rest
}

// late returns what comes after the restart: deliveries held back, and IDs that are used again.
func (m *mess) late() []deja.Request {
	late := make([]deja.Request, 0, len(m.held)+len(m.altered))
	for _, t := range m.held {
		late = append(late, t.Request())
	}
	for _, t := range m.altered {
		t.Amount++
		late = append(late, t.Request())
	}
	m.rand.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	return late
}
