package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	produceByID = 13 // from this version on, a topic is named by its id in a produce request

	batchBytes = 512 << 10 // of records in a batch, before compression; a larger record goes alone
	ackTimeout = 10_000    // milliseconds that a leader waits for its replicas

	defaultCompression = Snappy
)

// Append appends records in order per partition. What is appended at once by several calls goes together.
//
// How order is kept, also across failures. A partition has one batch on its way at a time, and the next is made when the
// answer is there. (The library's own producer is not used, as it goes on with the next batch after one that was
// refused. Nor are several on their way at once: a leader that does not know a producer yet takes whichever of its
// batches comes first, whatever its sequence number.) A batch that gets no answer, or one that says to try again, is
// sent again as it is, under the same producer id and sequence number, so that it lands once.
//
// A batch that is refused takes with it all that was queued behind it at that moment, and the producer id: the calls
// return the error, nothing of theirs is on its way any more, and the next batch is another producer's first. A batch
// whose callers' contexts have all ended is not sent again. But the answer to what was sent is still waited for before
// the next batch goes; only if that fails too, with the connection, may a copy of the batch land later. It holds
// nothing but records of which the callers were told that they may be there. A caller that starts again at its oldest
// unacknowledged record, as it must, appends those again before any newer one, so the late copy is a repeat, and the
// order of first copies stands, however often this happens.
//
// That holds for calls one after the other, and for several at once if they have one ctx: those queued when it ends are
// never sent.
func (l *Log) Append(ctx context.Context, topic string, rs []driver.Record) ([]deja.Position, error) {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	calls, err := t.split(ctx, rs)
	if err != nil {
		return nil, err
	}
	for _, c := range calls {
		c.p.appender.enqueue(c)
	}
	for i, c := range calls {
		if err := c.wait(ctx, l); err != nil {
			for _, c := range calls[i:] {
				c.p.appender.withdraw(c)
			}
			return nil, fmt.Errorf("append to %s:%d: %w", t.Name, c.p.n, err)
		}
	}
	ps := make([]deja.Position, len(rs))
	for _, c := range calls {
		for i := range c.offsets {
			ps[c.at(i)] = deja.Position{Topic: t.Name, Partition: c.p.n, Offset: c.offsets[i]}
		}
	}
	return ps, nil
}

// A call is what an Append has for one partition.
type call struct {
	ctx   context.Context //nolint:containedctx // the call's own, looked at when its turn comes
	p     *partition
	rs    []driver.Record // the Append's
	which []int           // the indexes of those for the partition; nil: all

	// Guarded by the appender's lock.
	taken     int     // that were put into batches
	offsets   []int64 // of those that were acknowledged
	withdrawn bool    // nobody waits for it any more; rs must not be touched
	done      chan error
}

func (c *call) len() int {
	if c.which == nil {
		return len(c.rs)
	}
	return len(c.which)
}

// at returns the index in rs of the call's i-th record.
func (c *call) at(i int) int {
	if c.which == nil {
		return i
	}
	return c.which[i]
}

// split makes the calls of an Append, after a look at all of its records.
func (t *topic) split(ctx context.Context, rs []driver.Record) ([]*call, error) {
	var calls []*call
	if len(rs) == 0 {
		return nil, nil
	}
	one := true
	for i := range rs {
		r := &rs[i]
		if r.Partition < 0 || r.Partition >= t.Partitions {
			return nil, fmt.Errorf("topic %q has no partition %d: it has %d", t.Name, r.Partition, t.Partitions)
		}
		if size := headerSize + recordSize(r); len(r.Value) > t.MaxRecord || size > t.limit {
			return nil, fmt.Errorf("topic %q: %w: its value has %d bytes of %d that are allowed, all of it %d of the %d of %s",
				t.Name, driver.ErrTooLarge, len(r.Value), t.MaxRecord, size, t.limit, maxMessageBytes)
		}
		one = one && r.Partition == rs[0].Partition
	}
	if one {
		return []*call{{ctx: ctx, p: t.parts[rs[0].Partition], rs: rs, done: make(chan error, 1)}}, nil
	}
	byPartition := make([]*call, t.Partitions)
	for i := range rs {
		n := rs[i].Partition
		c := byPartition[n]
		if c == nil {
			c = &call{ctx: ctx, p: t.parts[n], rs: rs, done: make(chan error, 1)}
			byPartition[n] = c
			calls = append(calls, c)
		}
		c.which = append(c.which, i)
	}
	return calls, nil
}

// wait waits for the call's end.
func (c *call) wait(ctx context.Context, l *Log) error {
	select {
	case err := <-c.done:
		if errors.Is(err, errGivenUp) {
			return also(ctx.Err(), c.p.appender.trouble())
		}
		return err
	case <-ctx.Done():
		return also(ctx.Err(), c.p.appender.trouble())
	case <-c.p.topic.gone:
		return c.p.topic.broken()
	case <-l.done.Done():
		return ErrClosed
	}
}

// A producer is who the broker takes a batch to be from, and the number of the first record of its next one.
type producer struct {
	id    int64
	epoch int16
	next  int32
}

var noProducer = producer{id: -1}

// An appender sends a partition's batches, one after the other.
type appender struct {
	p        *partition
	producer producer // of the goroutine that runs

	mu      sync.Mutex
	queue   []*call
	running bool
	last    error // of the batch on its way
}

// enqueue puts a call behind the others.
func (a *appender) enqueue(c *call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue, c)
	if !a.running {
		a.running = a.p.log.run(a.run)
	}
}

// withdraw gives a call up. When it returns, nothing looks at its records any more.
func (a *appender) withdraw(c *call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.withdrawn = true
	a.queue = slices.DeleteFunc(a.queue, func(q *call) bool { return q == c })
}

// trouble returns why the batch that was sent last was not taken, if it was not.
func (a *appender) trouble() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// A part is how many records of a call are in a batch.
type part struct {
	c *call
	n int
}

// run sends batches until there is nothing to send.
func (a *appender) run() {
	b := a.p.log.buffer.Get().(*buffers)
	defer func() { a.p.log.buffer.Put(b) }()
	for {
		parts, count := a.next(b)
		if count == 0 {
			return
		}
		base, err := a.send(b, parts, count)
		if err != nil {
			b = new(buffers) // a request that was given up may still be reading the others
			a.producer = noProducer
			a.fail(parts, err)
			continue
		}
		a.producer.next = follow(a.producer.next, count)
		a.p.ends.reached(base + int64(count))
		a.settle(parts, base)
	}
}

// follow returns the sequence number after n records.
func follow(seq int32, n int) int32 {
	return int32((int64(seq) + int64(n)) & math.MaxInt32)
}

// next encodes the records of the next batch. If there are none, the appender has stopped.
func (a *appender) next(b *buffers) ([]part, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.raw = b.raw[:0]
	room := min(batchBytes, a.p.topic.limit-headerSize)
	var parts []part
	count := 0
	for len(a.queue) > 0 {
		c := a.queue[0]
		if c.ctx.Err() != nil { // it will be withdrawn
			a.queue = a.queue[1:]
			continue
		}
		n := 0
		full := false
		for ; c.taken < c.len(); c.taken++ {
			r := &c.rs[c.at(c.taken)]
			if size := recordSize(r); count > 0 && len(b.raw)+size > room {
				full = true
				break
			}
			b.raw = appendRecord(b.raw, r, count)
			count++
			n++
		}
		if n > 0 {
			parts = append(parts, part{c, n})
		}
		if full {
			break
		}
		a.queue = a.queue[1:]
	}
	a.running = count > 0
	return parts, count
}

// settle tells the calls of a batch that it is durable.
func (a *appender) settle(parts []part, base int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range parts {
		c := part.c
		for range part.n {
			c.offsets = append(c.offsets, base)
			base++
		}
		if len(c.offsets) == c.len() {
			c.done <- nil
		}
	}
}

// fail tells the calls of a batch, and those queued behind it, that nothing more of them is sent.
func (a *appender) fail(parts []part, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tell := func(c *call, err error) {
		select {
		case c.done <- err:
		default: // in the batch and in the queue
		}
	}
	for _, part := range parts {
		tell(part.c, err)
	}
	if errors.Is(err, errGivenUp) {
		a.queue = slices.DeleteFunc(a.queue, func(c *call) bool { return c.taken > 0 })
		return
	}
	for _, c := range a.queue {
		tell(c, fmt.Errorf("not sent, as a record before it failed: %w", err))
	}
	a.queue = nil
}

// errGivenUp is the end of a batch for which nobody waits any more.
var errGivenUp = errors.New("nobody waits for it")

// send sends the encoded batch until the leader has it, and returns the first record's offset.
func (a *appender) send(b *buffers, parts []part, count int) (base int64, err error) {
	p := a.p
	var records []byte
	err = p.try(p.log.done, func(ctx context.Context, to leader) error {
		if a.abandoned(parts) {
			return errGivenUp
		}
		err := a.identify(ctx)
		if err == nil {
			if records == nil {
				records = b.seal(p.log.codec, count, a.producer)
			}
			base, err = p.produce(ctx, to, records)
		}
		if end := base + int64(count); err == nil {
			p.ends.bare(end, end, to)
		}
		a.note(err)
		return err
	})
	return base, err
}

// abandoned reports whether all callers have gone.
func (a *appender) abandoned(parts []part) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !slices.ContainsFunc(parts, func(part part) bool { return !part.c.withdrawn && part.c.ctx.Err() == nil })
}

// note keeps what went wrong, for callers that do not want to wait longer.
func (a *appender) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = err
}

// identify gets a producer id if there is none.
func (a *appender) identify(ctx context.Context) error {
	if a.producer.id >= 0 {
		return nil
	}
	resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(ctx, a.p.log.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("get a producer id: %w", err)
	}
	a.producer = producer{id: resp.ProducerID, epoch: resp.ProducerEpoch}
	return nil
}

// produce sends a batch once. The topic is named by its id, so another of its name cannot take it; to brokers before
// Kafka 4.1, which go by the name, it is looked at afterwards.
func (p *partition) produce(ctx context.Context, to leader, records []byte) (int64, error) {
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = p.n, records
	named := kmsg.NewProduceRequestTopic()
	named.Topic, named.TopicID, named.Partitions = p.topic.real, p.topic.id, append(named.Partitions, part)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, ackTimeout
	req.Topics = append(req.Topics, named)

	line, err := p.log.lines.take()
	if err != nil {
		return 0, err
	}
	got, err := line.Broker(int(to.broker)).Request(ctx, req)
	p.log.lines.give(line, err != nil)
	if err != nil {
		return 0, err
	}
	resp := got.(*kmsg.ProduceResponse)
	for _, t := range resp.Topics {
		for _, got := range t.Partitions {
			if got.Partition != p.n || t.TopicID != p.topic.id && t.Topic != p.topic.real {
				continue
			}
			if err := p.produced(&got); err != nil {
				return 0, err
			}
			if resp.Version < produceByID {
				return got.BaseOffset, p.log.check(ctx, p.topic)
			}
			return got.BaseOffset, nil
		}
	}
	return 0, fmt.Errorf("%w: broker %d answered about something else", driver.ErrUnusable, to.broker)
}

// produced judges a partition's answer.
func (p *partition) produced(got *kmsg.ProduceResponseTopicPartition) error {
	err := kerr.ErrorForCode(got.ErrorCode)
	switch {
	case err == nil && got.BaseOffset < 0:
		return fmt.Errorf("%w: the broker gave no offset", driver.ErrUnusable)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w: %s was %d when the topic was first used, and was lowered: %w",
			driver.ErrTooLarge, maxMessageBytes, p.topic.limit, err)
	case err != nil && got.ErrorMessage != nil:
		return fmt.Errorf("%w: %s", err, *got.ErrorMessage)
	}
	return err
}
