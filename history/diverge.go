package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/talk"
)

// Diverge asks where two builds of the service decide otherwise over this history.
type Diverge struct {
	A, B   string // each the path of a program that serves as a worker, or [Recorded]
	Scope  Scope
	Limits Limits // the zero Limits: all that the history has

	// Patience is how long an answer of a program may take; 0: a minute.
	Patience time.Duration

	// Progress is called now and then, from one goroutine; nil: not.
	Progress func(done, total int64)

	states bool // what repair needs: the rows of the keys that end apart
}

// A Divergence is where two builds decide otherwise.
type Divergence struct {
	Equal    bool  `json:"equal"`    // they decide the same, as far as they were compared
	Complete bool  `json:"complete"` // they were compared up to the end
	A        Build `json:"a"`
	B        Build `json:"b"`
	Messages int64 `json:"messages"` // that both decided
	Keys     int64 `json:"keys"`
	Repairs  int64 `json:"repairs_left_out"` // commands of repairs, which programs do not live

	// Differ has the keys of which they decide otherwise, in order of keys.
	Differ []*Parting `json:"differ"`

	// Clusters count the keys by how they parted, those with the most keys first.
	Clusters []Cluster `json:"clusters"`

	// StillDiffer are the keys whose states are not equal at the end, Reconverged those whose states were not and are, and
	// NeverDiffered those of which only decisions differ.
	StillDiffer   []string `json:"still_differ"`
	Reconverged   []string `json:"reconverged"`
	NeverDiffered []string `json:"never_differed"`

	// Faults tell of programs that did not get to the end: each with the message that was under way. What is after it was
	// not compared.
	Faults []WorkerFault `json:"faults"`
}

// A Parting is a key of which two builds decide otherwise: where they first do.
type Parting struct {
	Key     string   `json:"key"`
	Message Message  `json:"message"`
	Field   string   `json:"field"` // in which the decisions first differ: outcome, reason, events[0].payload.amount, state.balance, …
	A       *Delta   `json:"a"`     // null if it has no such decision
	B       *Delta   `json:"b"`
	Later   int64    `json:"later"`             // messages after it at which the decisions differ too, in what they emit or write
	States  string   `json:"states"`            // differ, reconverged or never_differed
	Again   *Message `json:"equal_from"`        // of states that re-converged: the message from which on they are equal
	Times   int64    `json:"reconverged_times"` // how often they became equal, whether they stayed so or not
	Fields  []Apart  `json:"fields"`            // of states that differ: where, at the end
	ChainA  string   `json:"chain_a"`           // the hashes of all deltas
	ChainB  string   `json:"chain_b"`

	stream   deja.Stream
	rows     [2]json.RawMessage // of states that differ, where they are asked for
	versions [2]int64
}

// Apart is a field in which two states differ: JSON, null where it is absent or zero.
type Apart struct {
	Path string          `json:"path"`
	A    json.RawMessage `json:"a"`
	B    json.RawMessage `json:"b"`
}

// A Cluster is all keys that parted at a message of one type in one field.
type Cluster struct {
	Type  string  `json:"type"`
	Field string  `json:"field"`
	A     string  `json:"a"` // the outcome, its reason, and the types of what is emitted
	B     string  `json:"b"`
	Keys  int64   `json:"keys"`
	First Message `json:"first"` // by position, in the first partition
	Key   string  `json:"first_key"`
}

// A WorkerFault tells what became of a program.
type WorkerFault struct {
	Side    string   `json:"side"` // a or b
	Kind    string   `json:"kind"` // crashed, hung, garbage, failed, no-worker, other-protocol, other-service
	Detail  string   `json:"detail"`
	Key     string   `json:"key,omitempty"`
	Message *Message `json:"message"` // that was under way; null if none was
	Stderr  string   `json:"stderr,omitempty"`
}

// ErrProgram is wrapped by the error for a program that cannot be asked at all: it is no build of the service that serves as
// a worker of this protocol.
var ErrProgram = errors.New("the program cannot be asked")

// Diverge lets two sides decide the same messages, side by side, and compares decision after decision. It writes nothing
// anywhere. A program that crashes, hangs or writes nonsense is part of the answer. Memory grows with the keys.
func (h *History) Diverge(ctx context.Context, q Diverge) (*Divergence, error) {
	if q.Limits.Last == nil {
		q.Limits = h.All()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &differ{h: h, q: q, answer: &Divergence{Complete: true}}
	defer d.close()
	for i, program := range []string{q.A, q.B} {
		var err error
		if d.sides[i], err = h.startSide(ctx, program, q.Patience); err != nil {
			return nil, asked(ctx, err)
		}
	}
	d.answer.A, d.answer.B = d.sides[0].build(), d.sides[1].build()
	d.q.Limits.After = slices.Clone(q.Limits.After)
	for p := range q.Limits.Last {
		var err error
		if d.q.Limits.After[p], err = h.begun(ctx, int32(p), q.Limits.After[p], q.Limits.Last[p]); err != nil {
			return nil, err
		}
		d.total += q.Limits.Last[p] - q.Limits.After[p]
	}
	for p := range h.source.Partitions() {
		if err := d.partition(ctx, p); err != nil {
			return nil, err
		}
		if len(d.answer.Faults) > 0 {
			break
		}
	}
	d.conclude()
	return d.answer, nil
}

// close ends the programs that were started.
func (d *differ) close() {
	for _, s := range d.sides {
		if s != nil {
			s.close()
		}
	}
}

// asked wraps the error of a program that could not be started.
func asked(ctx context.Context, err error) error {
	f, ok := errors.AsType[*talk.Fault](err)
	if !ok || ctx.Err() != nil {
		return err
	}
	if f.Stderr != "" {
		return fmt.Errorf("%w: %w\nit wrote:\n%s", ErrProgram, f, f.Stderr)
	}
	return fmt.Errorf("%w: %w", ErrProgram, f)
}

// differ compares two sides.
type differ struct {
	h      *History
	q      Diverge
	sides  [2]side
	answer *Divergence
	keys   map[deja.Stream]*keyTrack // of the partition
	done   int64
	total  int64
}

// keyTrack is how far a key has come on both sides.
type keyTrack struct {
	chains  [2]chain
	parting *Parting // nil: they decide the same
	apart   bool     // their states differ
	was     bool     // they did once
}

// partition compares what both sides decide of a partition.
func (d *differ) partition(ctx context.Context, p int32) error {
	past, err := d.h.pasts(ctx, p, d.q.Scope, d.q.Limits)
	if err != nil {
		return err
	}
	d.keys = map[deja.Stream]*keyTrack{}
	for i, s := range d.sides {
		if err := s.begin(ctx, p, past); err != nil { // a program that is gone says so when it is asked
			if _, program := s.(*workerSide); !program {
				return fmt.Errorf("side %s: %w", sideNames[i], err)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fed := make(chan []visit, 4)
	failed := make(chan error, 1)
	go func() {
		defer close(fed)
		failed <- d.feed(ctx, p, fed)
	}()
	for vs := range fed {
		for i := range vs {
			if err := d.compare(ctx, &vs[i]); err != nil {
				return err
			}
			if len(d.answer.Faults) > 0 {
				return d.end(ctx)
			}
		}
		d.done += int64(len(vs))
		if d.q.Progress != nil {
			d.q.Progress(d.done, d.total)
		}
	}
	if err := <-failed; err != nil {
		return err
	}
	return d.end(ctx)
}

var sideNames = [2]string{"a", "b"}

// feedSize is how many messages are handed over at once.
const feedSize = 64

// feed hands a partition's messages to both sides, and says which they were. What it has said is never more than some
// batches ahead: the pipes to the programs hold it up.
func (d *differ) feed(ctx context.Context, p int32, fed chan<- []visit) error {
	var vs []visit
	flush := func() error {
		if len(vs) == 0 {
			return nil
		}
		for _, s := range d.sides {
			if err := s.feed(ctx, vs); err != nil && ctx.Err() == nil { // the side says why when it is asked
				continue
			}
		}
		select {
		case fed <- vs:
			vs = make([]visit, 0, feedSize)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := d.h.visits(ctx, p, d.q.Scope, d.q.Limits, func(v visit) error {
		vs = append(vs, v)
		if len(vs) < feedSize {
			return nil
		}
		return flush()
	})
	return errors.Join(err, flush())
}

// compare compares what both sides decided of a message. If one of them fails, the fault is noted.
func (d *differ) compare(ctx context.Context, v *visit) (err error) {
	var answers [2]talk.Answer
	for i, s := range d.sides {
		answers[i], err = s.next(ctx, v)
		if fault, ok := errors.AsType[*talk.Fault](err); ok {
			d.fault(i, fault)
		} else if err != nil {
			return err
		}
	}
	if len(d.answer.Faults) > 0 {
		return nil
	}
	of := v.own().Cause.Stream
	k := d.keys[of]
	if k == nil {
		k = &keyTrack{}
		d.keys[of] = k
		d.answer.Keys++
	}
	if v.repair {
		d.answer.Repairs++
	} else {
		d.answer.Messages++
		d.decided(k, v, answers)
	}
	d.follow(k, v, answers)
	return nil
}

// decided compares the decisions of a message by the key's chains.
func (d *differ) decided(k *keyTrack, v *visit, answers [2]talk.Answer) {
	var deltas [2][]Delta
	for i := range answers {
		for n := range answers[i].Decisions {
			deltas[i] = append(deltas[i], deltaOf(&answers[i].Decisions[n]))
		}
		k.chains[i] = k.chains[i].link(deltas[i])
	}
	field, a, b := firstField(deltas[0], deltas[1])
	switch {
	case k.parting != nil && field != "":
		k.parting.Later++
	case k.parting == nil && k.chains[0] != k.chains[1]:
		d.part(k, v, field, a, b)
	}
}

// part notes where a key parts.
func (d *differ) part(k *keyTrack, v *visit, field string, a, b *Delta) {
	of := v.own().Cause.Stream
	k.parting = &Parting{Key: keyName(of), Message: messageOf(v), Field: field, A: a, B: b, Fields: []Apart{}, stream: of}
	d.answer.Differ = append(d.answer.Differ, k.parting)
}

// follow notes whether the states of a key are equal after a message.
func (d *differ) follow(k *keyTrack, v *visit, answers [2]talk.Answer) {
	apart := answers[0].State != answers[1].State
	if k.parting == nil && apart { // a repair of what both decide alike
		var a *Delta
		if len(answers[0].Decisions) > 0 {
			delta := deltaOf(&answers[0].Decisions[0])
			a = &delta
		}
		d.part(k, v, "repair", a, nil)
	}
	if k.parting != nil && k.apart && !apart {
		m := messageOf(v)
		k.parting.Again = &m
		k.parting.Times++
	}
	k.apart, k.was = apart, k.was || apart
}

// keyName names a key; a record that is no message has none.
func keyName(s deja.Stream) string {
	if s == (deja.Stream{}) {
		return ""
	}
	return s.String()
}

// messageOf returns a message as answers show it.
func messageOf(v *visit) Message {
	e := v.own()
	m := Message{ID: e.Cause.ID, Position: e.Cause.Position, Version: e.Version, Type: e.Cause.Type}
	if env, err := v.envelope(); err == nil {
		m.Payload = payloadOf(env)
	}
	return m
}

// fault notes that a side failed.
func (d *differ) fault(side int, f *talk.Fault) {
	d.answer.Complete = false
	out := WorkerFault{Side: sideNames[side], Kind: string(f.Kind), Detail: f.Detail, Stderr: f.Stderr}
	if m := f.Message; m != nil {
		out.Key = keyName(m.Stream)
		out.Message = &Message{ID: m.ID, Position: m.Position, Type: m.Type, Payload: canonical(m)}
	}
	d.answer.Faults = append(d.answer.Faults, out)
}

// end tells how the states of a partition's keys are in the end, or where a side failed.
func (d *differ) end(ctx context.Context) error {
	for _, k := range d.keys {
		p := k.parting
		if p == nil {
			continue
		}
		switch {
		case k.apart:
			p.States = "differ"
		case k.was:
			p.States = "reconverged"
		default:
			p.States = "never_differed"
		}
		if p.States != "reconverged" {
			p.Again = nil
		}
		p.ChainA, p.ChainB = fmt.Sprintf("%x", k.chains[0]), fmt.Sprintf("%x", k.chains[1])
		if !k.apart {
			continue
		}
		if len(d.answer.Faults) > 0 {
			continue // a side is gone
		}
		if err := d.apart(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// apart tells in which fields the states of a key differ.
func (d *differ) apart(ctx context.Context, p *Parting) error {
	var fields [2][]canon.Field
	for i, s := range d.sides {
		row, err := s.row(ctx, p.stream)
		if fault, ok := errors.AsType[*talk.Fault](err); ok {
			d.fault(i, fault)
			return nil
		}
		if err != nil {
			return err
		}
		if p.versions[i] = row.Version; row.Version == 0 {
			continue
		}
		if d.q.states {
			p.rows[i] = row.Data
		}
		if fields[i], err = d.h.machine.Flatten(nil, p.stream.Aggregate, row.Data); err != nil {
			return fmt.Errorf("state of %s as side %s has it: %w", p.Key, sideNames[i], err)
		}
	}
	for _, c := range canon.Diff(fields[0], fields[1]) {
		p.Fields = append(p.Fields, Apart{c.Path, jsonToken(c.Old), jsonToken(c.New)})
	}
	return nil
}

// conclude sorts the answer, and counts.
func (d *differ) conclude() {
	a := d.answer
	slices.SortFunc(a.Differ, func(x, y *Parting) int { return x.stream.Compare(y.stream) })
	a.Equal = len(a.Differ) == 0 && len(a.Faults) == 0
	a.StillDiffer, a.Reconverged, a.NeverDiffered = []string{}, []string{}, []string{}
	for _, p := range a.Differ {
		switch p.States {
		case "reconverged":
			a.Reconverged = append(a.Reconverged, p.Key)
		case "never_differed":
			a.NeverDiffered = append(a.NeverDiffered, p.Key)
		default:
			a.StillDiffer = append(a.StillDiffer, p.Key)
		}
	}
	a.Clusters = clustersOf(a.Differ)
	if a.Differ == nil {
		a.Differ = []*Parting{}
	}
	if a.Faults == nil {
		a.Faults = []WorkerFault{}
	}
}

// clustersOf counts keys by how they parted.
func clustersOf(all []*Parting) []Cluster {
	type kind struct{ typ, field, a, b string }
	index := map[kind]int{}
	clusters := []Cluster{}
	for _, p := range all {
		k := kind{p.Message.Type, p.Field, p.A.kind(), p.B.kind()}
		i, ok := index[k]
		if !ok {
			i = len(clusters)
			index[k] = i
			clusters = append(clusters, Cluster{Type: k.typ, Field: k.field, A: k.a, B: k.b, First: p.Message, Key: p.Key})
		}
		c := &clusters[i]
		c.Keys++
		if x, y := p.Message.Position, c.First.Position; cmp.Or(cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.Offset, y.Offset)) < 0 {
			c.First, c.Key = p.Message, p.Key
		}
	}
	slices.SortStableFunc(clusters, func(x, y Cluster) int {
		return cmp.Or(cmp.Compare(y.Keys, x.Keys), cmp.Compare(x.Type, y.Type), cmp.Compare(x.Field, y.Field))
	})
	return clusters
}

// kind returns a delta without what is of one message alone: its outcome, its reason and the types of what it emits.
func (d *Delta) kind() string {
	text := d.settled()
	if d == nil {
		return text
	}
	for _, e := range d.Emits {
		text += ", " + cmp.Or(e.Type, e.Kind+" "+e.Key)
	}
	return text
}
