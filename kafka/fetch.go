package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	fetchKey  = 1
	fetchByID = 13 // from this version on, a topic is asked for by its id

	fetchBytes = 256 << 10 // of batches, as they are on the wire, in one answer; a larger first batch comes alone
	givenBytes = 4 << 20   // of records that one Fetch returns
	waitAtEnd  = 500 * time.Millisecond

	maxStreams = 3                // per partition that wait to be read on
	idleStream = 10 * time.Second // after which a stream's memory is given back
)

// Fetch returns records of at most about 4 MiB together, or one. Those of a service's inbox or journal come without their
// headers, which say nothing that the values do not. Values and headers of records that came in one batch
// share memory. Reading on where a Fetch has ended is served from what was read ahead; any other position is asked for
// anew. Control records and those of aborted transactions are left out, and records of open ones wait for their end.
func (l *Log) Fetch(ctx context.Context, from deja.Position, limit int) ([]driver.Record, error) {
	p, err := l.partition(ctx, from.Topic, from.Partition)
	if err != nil {
		return nil, err
	}
	s := p.streams.take(p, from.Offset)
	rs, err := s.read(ctx, max(limit, 1))
	p.streams.give(s, err != nil && l.over(ctx) == nil)
	return rs, err
}

// streams are those of a partition that wait to be read on.
type streams struct {
	mu   sync.Mutex
	idle []*stream // the last used comes last
}

// take returns the stream that ended at the offset, or a new one.
func (ss *streams) take(p *partition, offset int64) *stream {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for i, s := range ss.idle {
		if s.bare <= offset && offset <= s.next {
			ss.idle = slices.Delete(ss.idle, i, i+1)
			return s
		}
	}
	return &stream{p: p, bare: offset, next: offset, asked: offset, epoch: -1}
}

// give takes a stream back, unless it failed.
func (ss *streams) give(s *stream, failed bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if failed || s.p.log.done.Err() != nil {
		s.drop()
		return
	}
	s.used = time.Now()
	ss.idle = append(ss.idle, s)
	if len(ss.idle) > maxStreams {
		ss.idle[0].drop()
		ss.idle = slices.Delete(ss.idle, 0, 1)
	}
}

// tidy drops the streams that nobody read on.
func (ss *streams) tidy() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.idle = slices.DeleteFunc(ss.idle, func(s *stream) bool {
		old := time.Since(s.used) > idleStream
		if old {
			s.drop()
		}
		return old
	})
}

// A stream reads a partition on from an offset, one answer ahead. One call uses it at a time.
type stream struct {
	p     *partition
	next  int64  // the offset to give next
	bare  int64  // from here to next there is no record
	gave  bool   // there is one before that
	asked int64  // the offset to ask for next
	epoch int32  // of the leader that took the batch before asked; -1: not known
	by    leader // who answered last
	used  time.Time

	open    batch
	raw     []byte // batches after it, not opened yet
	aborted []aborted
	pending chan answer // the request on its way, or nil
	cancel  context.CancelFunc
}

// An answer is what a request brought: batches, perhaps none.
type answer struct {
	by      leader
	raw     []byte
	aborted []aborted
	err     error
}

// aborted is a transaction whose records, from first on, are not to be given.
type aborted struct{ producer, first int64 }

// read returns the next records.
func (s *stream) read(ctx context.Context, limit int) ([]driver.Record, error) {
	for {
		rs, err := s.given(limit)
		if s.gave {
			s.p.ends.bare(s.bare, s.next, s.by)
		}
		if err != nil || len(rs) > 0 {
			return rs, err
		}
		if s.pending == nil {
			s.request()
		}
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// given returns what is at hand of the next records.
func (s *stream) given(limit int) ([]driver.Record, error) {
	var rs []driver.Record
	size := 0
	for len(rs) < limit && size < givenBytes {
		if s.open.left == 0 {
			if more, err := s.unpack(); err != nil || !more {
				return rs, err
			}
			continue
		}
		if rs == nil {
			rs = make([]driver.Record, 0, min(limit, s.open.left))
		}
		before, was := len(s.open.body), len(rs)
		var err error
		if rs, err = s.open.read(rs, s.next, limit); err != nil {
			return nil, err
		}
		size += before - len(s.open.body)
		if len(rs) > was {
			s.next = rs[len(rs)-1].Offset + 1
			s.bare, s.gave = s.next, true
		}
		if s.open.left == 0 {
			s.past()
		}
	}
	return rs, nil
}

// past moves on behind the open batch: its last offsets may be gaps.
func (s *stream) past() {
	s.next = max(s.next, s.open.end)
	s.open = batch{}
}

// unpack opens the next batch; it reports false when there is none.
func (s *stream) unpack() (bool, error) {
	length, end, complete := header(s.raw)
	if !complete {
		s.raw = nil
		return false, nil
	}
	raw := s.raw[:length]
	s.raw = s.raw[length:]
	if end <= s.next {
		return true, nil
	}
	var err error
	if s.open, err = openBatch(s.p, raw, s.skip); err != nil {
		return false, err
	}
	if s.open.left == 0 {
		s.past()
	}
	return true, nil
}

// skip reports whether a batch of a transaction is not to be given: it is a marker, or belongs to one that was aborted.
func (s *stream) skip(producer, base int64, control, aborts bool) bool {
	if !control {
		return slices.ContainsFunc(s.aborted, covers(producer, base))
	}
	if aborts {
		if i := slices.IndexFunc(s.aborted, covers(producer, base)); i >= 0 {
			s.aborted = slices.Delete(s.aborted, i, i+1)
		}
	}
	return true
}

// covers tells whether a producer's batch may belong to an aborted transaction, if that has not ended before it.
func covers(producer, base int64) func(aborted) bool {
	return func(a aborted) bool { return a.producer == producer && a.first <= base }
}

// request asks for what comes after what was asked for already.
func (s *stream) request() {
	ctx, cancel := context.WithCancel(s.p.log.done)
	answers := make(chan answer, 1)
	s.pending, s.cancel = answers, cancel
	p, offset, epoch := s.p, s.asked, s.epoch
	p.log.run(func() {
		defer cancel()
		answers <- p.fetch(ctx, offset, epoch)
	})
}

// wait waits for the answer, and asks for the one after it if this one had something.
func (s *stream) wait(ctx context.Context) error {
	var a answer
	select {
	case a = <-s.pending:
	case <-s.p.topic.gone:
		return s.p.topic.broken()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.p.log.done.Done():
		return ErrClosed
	}
	s.pending = nil
	if a.err != nil {
		return a.err
	}
	ahead := s.asked != s.next || !s.used.IsZero() // it is being read on
	s.by, s.raw, s.aborted = a.by, a.raw, a.aborted
	rest := a.raw
	for {
		length, end, complete := header(rest)
		if !complete {
			break
		}
		s.asked, s.epoch = max(s.asked, end), leaderEpoch(rest)
		rest = rest[length:]
	}
	if ahead && len(a.raw) > 0 {
		s.request()
	}
	return nil
}

// drop gives up what is on its way.
func (s *stream) drop() {
	if s.cancel != nil {
		s.cancel()
	}
}

// fetch asks the leader for batches from an offset on, and tries again as long as that may help. At the end it waits
// for a moment, and may return none.
func (p *partition) fetch(ctx context.Context, offset int64, epoch int32) answer {
	var a answer
	a.err = p.try(ctx, func(ctx context.Context, to leader) (err error) {
		a, err = p.fetchOnce(ctx, to, offset, epoch)
		if errors.Is(err, errInside) {
			epoch = -1 // the leader may have forgotten that epoch with the records it trimmed
		}
		return err
	})
	return a
}

func (p *partition) fetchOnce(ctx context.Context, to leader, offset int64, epoch int32) (answer, error) {
	line, err := p.log.lines.take()
	if err != nil {
		return answer{}, err
	}
	resp, err := line.Broker(int(to.broker)).Request(ctx, p.fetchRequest(to, offset, epoch, waitAtEnd))
	p.log.lines.give(line, err != nil)
	if err != nil {
		return answer{}, err
	}
	got, err := p.answered(to, resp)
	if err != nil {
		return answer{}, p.at(offset, err)
	}
	return p.fetched(ctx, to, offset, got)
}

// fetchRequest asks for batches from an offset on, of the leader's epoch and behind one of another, and waits for some at the
// end.
func (p *partition) fetchRequest(to leader, offset int64, epoch int32, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(wait.Milliseconds())
	req.MinBytes, req.MaxBytes = 1, fetchBytes
	req.IsolationLevel = readCommitted
	req.SessionEpoch = -1 // a request by itself
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = p.n, offset, fetchBytes
	part.CurrentLeaderEpoch, part.LastFetchedEpoch = to.epoch, epoch
	named := kmsg.NewFetchRequestTopic()
	named.TopicID, named.Partitions = p.topic.id, append(named.Partitions, part)
	req.Topics = append(req.Topics, named)
	return req
}

// answered returns what a leader has answered about the partition.
func (p *partition) answered(to leader, resp kmsg.Response) (*kmsg.FetchResponseTopicPartition, error) {
	fetched := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(fetched.ErrorCode); err != nil {
		return nil, err
	}
	for i := range fetched.Topics {
		for j := range fetched.Topics[i].Partitions {
			if got := &fetched.Topics[i].Partitions[j]; fetched.Topics[i].TopicID == p.topic.id && got.Partition == p.n {
				return got, nil
			}
		}
	}
	return nil, fmt.Errorf("broker %d answered about something else", to.broker)
}

// fetched judges a partition's answer.
func (p *partition) fetched(ctx context.Context, to leader, offset int64, got *kmsg.FetchResponseTopicPartition) (answer, error) {
	switch err := kerr.ErrorForCode(got.ErrorCode); {
	case got.ErrorCode == kerr.OffsetOutOfRange.Code:
		return answer{}, p.outside(ctx, to, offset)
	case err != nil:
		return answer{}, p.at(offset, err)
	case got.DivergingEpoch.EndOffset >= 0 && got.DivergingEpoch.Epoch >= 0:
		return answer{}, p.at(offset, fmt.Errorf("%w: what was read before is gone from offset %d on",
			driver.ErrBeyondEnd, got.DivergingEpoch.EndOffset))
	}
	p.ends.reached(got.LastStableOffset)
	return answer{by: to, raw: got.RecordBatches, aborted: abortedIn(got)}, nil
}

// abortedIn returns the aborted transactions that an answer tells of, in order.
func abortedIn(got *kmsg.FetchResponseTopicPartition) []aborted {
	var as []aborted
	for _, t := range got.AbortedTransactions {
		as = append(as, aborted{t.ProducerID, t.FirstOffset})
	}
	slices.SortFunc(as, func(a, b aborted) int { return cmp.Compare(a.first, b.first) })
	return as
}

// outside says on which side of the partition an offset is. It is asked for again if it is inside after all.
func (p *partition) outside(ctx context.Context, to leader, offset int64) error {
	first, end, err := p.bounds(ctx, to)
	switch {
	case err != nil:
		return err
	case offset < first:
		return p.at(offset, fmt.Errorf("%w: its first record is at %d", driver.ErrTrimmed, first))
	case offset > end:
		return p.at(offset, fmt.Errorf("%w: it ends at %d", driver.ErrBeyondEnd, end))
	}
	return p.at(offset, errInside)
}

// errInside is returned for an offset that a leader called out of range, and that is in it now.
var errInside = errors.New("the leader calls the offset out of range, and it is not")

// Bounds returns the offset of the first record still there and the one after the last that Fetch gives: behind it there may
// be markers of others' transactions, and records of aborted ones. Who may ask for offsets only is told an end that includes
// those.
func (l *Log) Bounds(ctx context.Context, topic string, n int32) (first, end int64, err error) {
	p, err := l.partition(ctx, topic, n)
	if err != nil {
		return 0, 0, err
	}
	told := false
	err = p.try(ctx, func(ctx context.Context, to leader) (err error) {
		if first, end, told, err = p.glance(ctx, to); err == nil && !told {
			first, end, err = p.bounds(ctx, to)
		}
		if err == nil {
			end, err = p.behindRecords(ctx, to, first, end)
		}
		return err
	})
	if err == nil && !told {
		err = l.check(ctx, p.topic) // offsets were asked for by the topic's name
	}
	if err != nil {
		return 0, 0, fmt.Errorf("bounds of %s:%d: %w", topic, n, err)
	}
	return first, end, nil
}

// ends is what is known of a partition's end, so that its bounds can be asked for by a fetch from there: one request, which
// names the topic by its id, where asking for offsets takes three.
//
// A fetch may tell an end that lies before acknowledged records, until a new leader has heard from its replicas. One that is
// asked for offsets tells none before that. So a fetch is believed once its leader has told offsets, in the same epoch, and
// no connection was opened since: to a broker that has started again meanwhile there is a new one.
type ends struct {
	mu     sync.Mutex
	last   int64 // the end as it was seen last; it is there or behind, unless records were lost
	listed listed
	tail   tail
}

// listed says which leader told offsets, and how many connections had been opened before.
type listed struct {
	by       leader
	connects int64
}

// tail is a range of offsets without a record, behind one.
type tail struct {
	from, to int64
	by       leader
}

// told notes the end that a leader has told.
func (e *ends) told(end int64, by listed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.listed = end, by
}

// reached notes that the end is at an offset or behind it.
func (e *ends) reached(end int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = max(e.last, end)
}

// seen returns the end as it was seen last, and whether that leader has told offsets.
func (e *ends) seen(by listed) (int64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, e.listed == by && by.connects > 0 && by.by.epoch >= 0
}

// bare notes that a leader has a record, or nothing at all, before an offset, and none from there to another.
func (e *ends) bare(from, to int64, by leader) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tail.by != by || e.tail.to < to {
		e.tail = tail{from, to, by}
	}
}

// behind returns the offset behind the last record before an end, if it is known.
func (e *ends) behind(end int64, by leader) (int64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tail.by == by && e.tail.from <= end && end <= e.tail.to {
		return e.tail.from, true
	}
	return 0, false
}

// glance asks for the bounds by a fetch. It returns false if they must be asked for otherwise.
func (p *partition) glance(ctx context.Context, to leader) (first, end int64, told bool, err error) {
	now := listed{to, p.log.connects.Load()}
	last, ok := p.ends.seen(now)
	if !ok {
		return 0, 0, false, nil
	}
	got, err := p.peek(ctx, to, last)
	switch {
	case err != nil && retriable(err) && !errors.Is(err, kerr.OffsetOutOfRange):
		return 0, 0, false, err
	case err != nil, p.log.connects.Load() != now.connects:
		return 0, 0, false, nil //nolint:nilerr // who may not read a topic may be told its offsets
	case got.LogStartOffset < 0 || got.LastStableOffset < last:
		return 0, 0, false, nil
	}
	p.ends.reached(got.LastStableOffset)
	if _, end, record := firstBatch(got); record && end <= got.LastStableOffset {
		p.ends.bare(end, end, to)
	}
	return got.LogStartOffset, got.LastStableOffset, true, nil
}

// behindRecords returns the offset behind the last record before an end. It looks at what lies there from the end on, which
// takes a request for each batch that has none, once.
func (p *partition) behindRecords(ctx context.Context, to leader, first, end int64) (int64, error) {
	at := end
	for at > first {
		if from, ok := p.ends.behind(at, to); ok {
			at = from
			break
		}
		got, err := p.peek(ctx, to, at-1)
		if err != nil && retriable(err) {
			return 0, err
		}
		if err != nil {
			return end, nil //nolint:nilerr // it may not be read
		}
		base, next, record := firstBatch(got)
		if next < at {
			return 0, fmt.Errorf("broker %d gives nothing at offset %d, before the end it told", to.broker, at-1)
		}
		if record {
			break
		}
		at = base
	}
	at = max(at, first)
	p.ends.bare(at, end, to)
	return at, nil
}

// peek asks for the batch at an offset, without waiting for one.
func (p *partition) peek(ctx context.Context, to leader, offset int64) (*kmsg.FetchResponseTopicPartition, error) {
	req := p.fetchRequest(to, offset, -1, 0)
	req.MaxBytes = 1 // one batch, if there are some
	resp, err := p.log.client.Broker(int(to.broker)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	got, err := p.answered(to, resp)
	if err == nil {
		err = kerr.ErrorForCode(got.ErrorCode)
	}
	return got, err
}

// firstBatch returns where the first batch of an answer begins and ends, and whether Fetch gives its records.
func firstBatch(got *kmsg.FetchResponseTopicPartition) (base, end int64, records bool) {
	if raw := got.RecordBatches; len(raw) > atMagic && raw[atMagic] != magic {
		return 0, math.MaxInt64, true // Fetch says what is wrong with it
	}
	_, end, complete := header(got.RecordBatches)
	if !complete {
		return 0, 0, false
	}
	producer, base, txn, control := transactional(got.RecordBatches)
	return base, end, !control && (!txn || !slices.ContainsFunc(abortedIn(got), covers(producer, base)))
}

const (
	readCommitted = 1
	earliest      = -2
	latest        = -1
)

func (p *partition) bounds(ctx context.Context, to leader) (first, end int64, err error) {
	now := listed{to, p.log.connects.Load()}
	if first, err = p.listOffset(ctx, to, earliest); err != nil {
		return 0, 0, err
	}
	if end, err = p.listOffset(ctx, to, latest); err == nil {
		p.ends.told(end, now)
	}
	return first, end, err
}

func (p *partition) listOffset(ctx context.Context, to leader, which int64) (int64, error) {
	part := kmsg.NewListOffsetsRequestTopicPartition()
	part.Partition, part.CurrentLeaderEpoch, part.Timestamp = p.n, to.epoch, which
	named := kmsg.NewListOffsetsRequestTopic()
	named.Topic, named.Partitions = p.topic.real, append(named.Partitions, part)
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = readCommitted
	req.Topics = append(req.Topics, named)
	resp, err := p.log.client.Broker(int(to.broker)).Request(ctx, req)
	if err != nil {
		return 0, err
	}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, got := range t.Partitions {
			if t.Topic == p.topic.real && got.Partition == p.n {
				return got.Offset, kerr.ErrorForCode(got.ErrorCode)
			}
		}
	}
	return 0, fmt.Errorf("broker %d told no offset", to.broker)
}
