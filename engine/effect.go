package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/request"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

const (
	firstRetry   = 100 * time.Millisecond // then twice as long each time
	longestRetry = time.Minute
	tripAfter    = 5 // failures in a row after which a provider is left alone but for one try at a time
	longestTrip  = 30 * time.Second
	lookForRoom  = 250 * time.Millisecond
)

// maxPerforming is how many effects of one type a partition has in memory; the rest stay in the store. Tests have it smaller.
var maxPerforming = 4096

// performer performs the effects of one type in this process, for all partitions.
type performer struct {
	deja.Performer
	slots   chan struct{}
	breaker breaker
}

func newPerformers(ps []deja.Performer) map[string]*performer {
	m := map[string]*performer{}
	for _, p := range ps {
		m[p.EffectType()] = &performer{Performer: p, slots: make(chan struct{}, p.Concurrency())}
	}
	return m
}

// checkEffects returns what is wrong with the performers of a service's effects. That there is one for each is only asked of an
// engine that runs: tools perform none.
func checkEffects(m *deja.Machine, ps []deja.Performer) error {
	var errs []error
	asked := m.Effects()
	seen := map[string]bool{}
	for i := range ps {
		name := ps[i].EffectType()
		switch {
		case !ps[i].Valid():
			errs = append(errs, fmt.Errorf("effect %q: its performer has no function", name))
		case seen[name]:
			errs = append(errs, fmt.Errorf("effect %s: there are two performers", name))
		case !slices.Contains(asked, name):
			errs = append(errs, fmt.Errorf("effect %s: no aggregate asks for it (there is no OnFailed row)", name))
		}
		seen[name] = true
	}
	return errors.Join(errs...)
}

// breaker keeps calls from a provider that fails at each.
type breaker struct {
	mu       sync.Mutex
	failures int // in a row
	until    time.Time
	probing  bool
}

// enter waits until a call may be made.
func (b *breaker) enter(ctx context.Context) error {
	for {
		b.mu.Lock()
		wait := time.Until(b.until)
		if b.failures < tripAfter || wait <= 0 && !b.probing {
			b.probing = b.failures >= tripAfter
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		if sleep(ctx, max(wait, lookForRoom)); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// left notes how a call went, and returns how many have failed in a row.
func (b *breaker) left(failed bool) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	if !failed {
		b.failures = 0
		return 0
	}
	b.failures++
	pause := min(firstRetry<<min(b.failures, 20), longestTrip)
	b.until = time.Now().Add(pause/2 + rand.N(pause/2))
	return b.failures
}

// passed notes that no call was made.
func (b *breaker) passed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

// An UnknownEffect is open, was perhaps performed, and must not be tried any more: the provider may have forgotten its key,
// or its answer is none that the service takes.
type UnknownEffect struct {
	ID     deja.ID     `json:"id"`
	Type   string      `json:"type"`
	Stream deja.Stream `json:"stream"`
	Asked  time.Time   `json:"asked"`
}

// effects performs a partition's effects: those that are open when it is taken over, and those of each decision that is
// released from then on. One is open until its result was decided.
type effects struct {
	p       *partition
	w       *step.Worker
	inbox   driver.Topic
	results chan driver.Record // on their way into the inbox

	mu       sync.Mutex
	known    map[deja.ID]context.CancelFunc // effects without a result that is decided, and what ends the trying
	count    map[string]int                 // of those that are being performed, by type
	overflow map[string]bool                // types of which some were left in the store
	all      sync.WaitGroup
}

// perform performs the partition's effects until ctx ends.
func (p *partition) perform(ctx context.Context, w *step.Worker) {
	p.e.keep(ctx, fmt.Sprintf("effects of partition %d", p.number), func(ctx context.Context, well func()) error {
		inbox, err := p.e.log.Topic(ctx, wire.Inbox(p.e.machine.Name()))
		if err != nil {
			return err
		}
		x := &effects{
			p: p, w: w, inbox: inbox, results: make(chan driver.Record, batchSize),
			known: map[deja.ID]context.CancelFunc{}, count: map[string]int{}, overflow: map[string]bool{},
		}
		ctx, cancel := context.WithCancel(ctx)
		defer x.forget()
		defer x.all.Wait()
		defer cancel()
		x.all.Go(func() { x.send(ctx) })
		return x.run(ctx, well)
	})
}

// forget takes back what was said of the partition's effects: another process may perform them now.
func (x *effects) forget() {
	x.p.e.faults.set(x.sending(), nil)
	for name := range x.p.e.performers {
		x.p.e.faults.set("effect "+name, nil) // other partitions say it again at their next try
	}
	x.p.forgetUnknown(nil)
}

func (x *effects) run(ctx context.Context, well func()) error {
	if err := x.answered(ctx); err != nil {
		return err
	}
	f := follower{p: x.p, w: x.w, at: x.w.Released()}
	if err := x.open(ctx, nil); err != nil {
		return err
	}
	well()
	for {
		waiting, cancel := x.waiting(ctx)
		recs, err := f.next(waiting)
		cancel()
		switch {
		case err == nil:
			x.take(ctx, recs)
			well()
		case !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
			return err
		}
		if types := x.room(); len(types) > 0 {
			if err := x.open(ctx, types); err != nil {
				return err
			}
		}
	}
}

// answered waits until what is in the inbox now is handled: there may be results in it.
func (x *effects) answered(ctx context.Context) error {
	_, end, err := x.p.e.log.Bounds(ctx, wire.Inbox(x.p.e.machine.Name()), x.p.number)
	if err != nil {
		return err
	}
	return x.p.wait(ctx, func() bool { return x.w.Progress().Position >= end })
}

// open begins to perform what is open in the store and not known, of some types or, with none, of all.
func (x *effects) open(ctx context.Context, types map[string]bool) error {
	e := x.p.e
	var after deja.Stream
	for {
		rows, err := e.store.Open(ctx, x.p.number, after, batchSize)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			open, err := wire.DecodeOpen(e.machine.Name(), row.Stream, row.Open)
			if err != nil {
				return err
			}
			if len(open.Effects) == 0 {
				continue
			}
			if err := x.p.wait(ctx, func() bool { return x.w.Released() >= row.N }); err != nil {
				return err
			}
			for i := range open.Effects {
				if types == nil || types[open.Effects[i].Type] {
					x.begin(ctx, open.Effects[i])
				}
			}
		}
		after = rows[len(rows)-1].Stream
	}
}

// take begins what decisions ask for, and ends what they have heard the result of: a person may have given it, while the
// provider is still tried.
func (x *effects) take(ctx context.Context, recs []*wire.Record) {
	for _, rec := range recs {
		if rec.Cause.Kind == deja.KindResult && rec.Opens() {
			x.mu.Lock()
			if end := x.known[rec.Cause.CausationID]; end != nil {
				end()
			}
			delete(x.known, rec.Cause.CausationID)
			x.mu.Unlock()
			x.p.forgetUnknown(&rec.Cause.CausationID)
		}
		for i := range rec.Decided.Effects {
			x.begin(ctx, wire.Effect{Envelope: rec.Decided.Effects[i], Asked: rec.Time})
		}
	}
}

// begin begins to perform an effect, unless that was begun already or there is no room for it.
func (x *effects) begin(ctx context.Context, e wire.Effect) {
	p := x.p.e.performers[e.Type]
	if p == nil {
		return // another build's; a process that has its performer performs it
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known[e.ID] != nil {
		return
	}
	if x.count[e.Type] >= maxPerforming {
		x.overflow[e.Type] = true
		return
	}
	trying, end := context.WithCancel(ctx)
	x.known[e.ID] = end
	x.count[e.Type]++
	x.all.Go(func() {
		defer func() {
			end()
			x.mu.Lock()
			defer x.mu.Unlock()
			x.count[e.Type]--
		}()
		if result, known := x.outcome(trying, p, &e); known {
			x.performed(ctx, result, &e)
		}
	})
}

// waiting bounds a wait for decisions while effects were left in the store.
func (x *effects) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.overflow) == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, lookForRoom)
}

// room returns the types of which effects were left in the store, and for which there is room now.
func (x *effects) room() map[string]bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	var types map[string]bool
	for name := range x.overflow {
		if x.count[name] <= maxPerforming/2 {
			delete(x.overflow, name)
			if types == nil {
				types = map[string]bool{}
			}
			types[name] = true
		}
	}
	return types
}

// performed hands on the result of an effect, also of one that somebody gave another result meanwhile: that is for the
// record.
func (x *effects) performed(ctx context.Context, result route.Result, e *wire.Effect) {
	m, err := result.Message(x.p.e.machine, e)
	rec := route.Record(&m, x.inbox.Partitions)
	if err == nil && len(rec.Value) > x.inbox.MaxRecord {
		err = fmt.Errorf("it has %d bytes, the inbox takes %d: %w", len(rec.Value), x.inbox.MaxRecord, driver.ErrTooLarge)
	}
	if err != nil { // a build that answers otherwise asks again
		x.unknown(ctx, e, "an effect was performed, and its result cannot be sent: a person must say it", err)
		return
	}
	select {
	case x.results <- rec:
	case <-ctx.Done():
	}
}

// sending names the sending of results.
func (x *effects) sending() string {
	return fmt.Sprintf("results of effects of partition %d", x.p.number)
}

// send appends results to the inbox, all that there are at a time, until ctx ends.
func (x *effects) send(ctx context.Context) {
	for {
		var recs []driver.Record
		select {
		case rec := <-x.results:
			recs = append(recs, rec)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(recs) < batchSize; {
			select {
			case rec := <-x.results:
				recs = append(recs, rec)
			default:
				more = false
			}
		}
		for pause := firstPause; ; pause = min(2*pause, longestPause) {
			_, err := x.p.e.log.Append(ctx, x.inbox.Name, recs)
			if ctx.Err() != nil {
				return
			}
			x.p.e.faults.set(x.sending(), err)
			if err == nil {
				break
			}
			sleep(ctx, pause/2+rand.N(pause/2))
		}
	}
}

// outcome tries an effect until it is known what became of it, and returns false if nobody can tell or ctx has ended.
func (x *effects) outcome(ctx context.Context, pf *performer, e *wire.Effect) (route.Result, bool) {
	p, name := x.p, "effect "+e.Type
	inquiries := 0
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		cmd, err := p.try(ctx, pf, e)
		var refused *deja.Rejection
		switch {
		case err == nil:
			p.e.faults.set(name, nil)
			return route.Result{Command: cmd}, true
		case errors.As(err, &refused) && refused != nil:
			p.e.faults.set(name, nil)
			return route.Result{Rejection: refused}, true
		case ctx.Err() != nil:
			return route.Result{}, false
		case errors.Is(err, errTooLate):
			x.unknown(ctx, e, "nobody can tell what became of an effect: a person must say it", err)
			return route.Result{}, false
		}
		if n := pf.breaker.left(true); n >= tripAfter {
			p.e.faults.set(name, fmt.Errorf("%d tries in a row have failed: %w", n, err))
		}
		if pf.late(e) {
			if inquiries++; inquiries == tripAfter {
				x.unknown(ctx, e, "a provider cannot tell what became of an effect: it is asked on, and a person may say it", err)
			}
		}
		p.logger.DebugContext(ctx, "an effect failed; trying again with the same key", "effect", e.ID, "type", e.Type, "error", err)
		if sleep(ctx, pause/2+rand.N(pause/2)); ctx.Err() != nil {
			return route.Result{}, false
		}
	}
}

// call returns what the provider may be called for now, as the window of its key is open or not; false if for nothing.
func (pf *performer) call(e *wire.Effect) (func(context.Context, deja.Codec, deja.ID, []byte) (deja.Command, error), bool) {
	switch {
	case !pf.late(e):
		return pf.Do, true
	case pf.Inquires():
		return pf.Inquire, true
	}
	return nil, false
}

// late reports whether the provider may have forgotten the key.
func (pf *performer) late(e *wire.Effect) bool { return time.Since(e.Asked) > pf.Window() }

var (
	// errTooLate is returned by try if the provider may have forgotten the key, and cannot be asked.
	errTooLate = errors.New("the window has passed")

	// errNoReturn stands for the error of a function that ends its goroutine.
	errNoReturn = errors.New("the function did not return")
)

// try calls a provider once, when there is room for it. What for is only said then: the wait may be long.
func (p *partition) try(ctx context.Context, pf *performer, e *wire.Effect) (deja.Command, error) {
	if _, ok := pf.call(e); !ok {
		return nil, errTooLate
	}
	select {
	case pf.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := pf.breaker.enter(ctx); err != nil {
		<-pf.slots
		return nil, err
	}
	call, ok := pf.call(e)
	if !ok {
		pf.breaker.passed()
		<-pf.slots
		return nil, errTooLate
	}
	came := make(chan answer, 1)
	go func() {
		a := answer{err: errNoReturn}
		defer func() { <-pf.slots; came <- a }()
		a.cmd, a.err = call(ctx, p.e.machine.Codec(), e.ID, e.Payload)
	}()
	a := p.await(ctx, pf, e, came)
	var refused *deja.Rejection
	switch {
	case a.err == nil || errors.As(a.err, &refused):
		pf.breaker.left(false)
	case ctx.Err() != nil: // it was cut off
		pf.breaker.passed()
	}
	return a.cmd, a.err
}

// answer is what a provider's function returned.
type answer struct {
	cmd deja.Command
	err error
}

// await waits until a provider's function has returned. One that does not heed its context is shown when its deadline has
// passed, and left alone when ctx has ended: it has its slot until it returns.
func (p *partition) await(ctx context.Context, pf *performer, e *wire.Effect, came <-chan answer) answer {
	overdue := time.NewTimer(pf.Deadline() + leaving)
	defer overdue.Stop()
	for {
		select {
		case a := <-came:
			return a
		case <-overdue.C:
			p.e.faults.set("effect "+e.Type, fmt.Errorf("a call under the key %s goes on beyond its deadline: its function does not heed its context", e.ID))
		case <-ctx.Done():
			select {
			case a := <-came:
				return a
			case <-time.After(leaving):
				return answer{err: ctx.Err()}
			}
		}
	}
}

// unknown notes, and tells, that a person must say what became of an effect, unless it has a result meanwhile.
func (x *effects) unknown(ctx context.Context, e *wire.Effect, text string, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known[e.ID] != nil {
		x.p.noteUnknown(e)
		x.p.logger.ErrorContext(ctx, text, "effect", e.ID, "type", e.Type, "key", e.Stream.String(), "error", why)
	}
}

func (p *partition) noteUnknown(e *wire.Effect) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unknown == nil {
		p.unknown = map[deja.ID]UnknownEffect{}
	}
	p.unknown[e.ID] = UnknownEffect{ID: e.ID, Type: e.Type, Stream: e.Stream, Asked: e.Asked}
}

// forgetUnknown forgets an effect whose result is known, or all.
func (p *partition) forgetUnknown(id *deja.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id == nil {
		p.unknown = nil
		return
	}
	delete(p.unknown, *id)
}

// unknownEffects returns some of those that a person must decide, the oldest first.
func (p *partition) unknownEffects() []UnknownEffect {
	const most = 100
	p.mu.Lock()
	defer p.mu.Unlock()
	var us []UnknownEffect
	for _, u := range p.unknown {
		us = append(us, u)
	}
	slices.SortFunc(us, func(a, b UnknownEffect) int { return a.Asked.Compare(b.Asked) })
	return us[:min(most, len(us))]
}

// A Resolution is what a person says of an effect's outcome, having asked the provider by other means.
type Resolution struct {
	Stream    deja.Stream // whose effect it is
	Effect    deja.ID
	Answer    deja.Command    // the answer to the instance that asked; or nil
	Rejection *deja.Rejection // why it is given up; nil: it was performed
	Actor     string          // who says it, for the record
	Reason    string          // how it is known, for the record
}

// Resolve gives an open effect its result by hand, and waits until it is decided. The error wraps [deja.ErrInvalid] if no
// such effect is open. Like any result it is a message of the inbox, and the first result counts: where the service has
// one at the same moment, the error is a *[deja.Conflict]. It answers as [deja.Client.Do] does, for the result.
func (e *Engine) Resolve(ctx context.Context, r Resolution) (deja.Outcome, error) {
	rows, err := e.store.Load(ctx, []deja.Stream{r.Stream})
	if err != nil {
		return deja.Outcome{}, err
	}
	for _, row := range rows {
		open, err := wire.DecodeOpen(e.machine.Name(), row.Stream, row.Open)
		if err != nil {
			return deja.Outcome{}, err
		}
		for i := range open.Effects {
			if open.Effects[i].ID == r.Effect {
				return e.resolve(ctx, r, &open.Effects[i])
			}
		}
	}
	return deja.Outcome{}, fmt.Errorf("%w: no effect %s of %s is open", deja.ErrInvalid, r.Effect, r.Stream)
}

func (e *Engine) resolve(ctx context.Context, r Resolution, ef *wire.Effect) (deja.Outcome, error) {
	m, err := route.Result{Command: r.Answer, Rejection: r.Rejection, Actor: r.Actor, Reason: r.Reason}.Message(e.machine, ef)
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	env, err := request.Complete(e.machine, &m)
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	return (&client{e}).do(ctx, env)
}
