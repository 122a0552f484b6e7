//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
)

// past is all that the log has of the run, of one service.
type past struct {
	service string
	inbox   [partitions][]delivery
	journal [partitions][]journal.Entry
	firsts  [partitions]map[int64]*journal.Entry // the decisions by inbox offset
	public  map[string]bool                      // event IDs
	repeats map[repeat]int64                     // what the stores should have counted
}

// A repeat is a further delivery of a key.
type repeat struct {
	key      deja.ID
	conflict bool
}

// A delivery is an inbox record.
type delivery struct {
	offset int64
	key    deja.ID
	hash   [32]byte
	env    *deja.Envelope
}

// readPast reads inbox and journal, and looks at the journal with two pairs of eyes.
func readPast(ctx context.Context, log driver.Log, service string) (p *past, wrong []string, err error) {
	p = &past{service: service}
	for n := range int32(partitions) {
		recs, err := fetchAll(ctx, log, wire.Inbox(service), n)
		if err != nil {
			return nil, nil, err
		}
		dec := wire.NewDecoder(service)
		for _, r := range recs {
			env, err := dec.Message(r.Value)
			if err != nil {
				return nil, nil, fmt.Errorf("inbox record at %d:%d: %w", n, r.Offset, err)
			}
			hash, err := wire.ContentHash(env)
			if err != nil {
				return nil, nil, err
			}
			p.inbox[n] = append(p.inbox[n], delivery{r.Offset, wire.LedgerKey(service, env), hash, env})
		}
		more, err := p.readJournal(ctx, log, n)
		if err != nil {
			return nil, nil, err
		}
		wrong = append(wrong, more...)
	}
	return p, wrong, nil
}

// readJournal reads a partition's journal as the service's own reader does, and as somebody else would.
func (p *past) readJournal(ctx context.Context, log driver.Log, n int32) (wrong []string, err error) {
	recs, err := fetchAll(ctx, log, wire.Journal(p.service), n)
	if err != nil {
		return nil, err
	}
	numbers, wrong := readNumbers(p.service, n, recs)
	r := journal.NewReader(log, p.service, n, driver.Logged{})
	end := int64(0)
	if len(recs) > 0 {
		end = recs[len(recs)-1].Offset + 1
	}
	p.firsts[n] = map[int64]*journal.Entry{}
	for {
		entries, err := r.Next(ctx, end, 1000)
		if errors.Is(err, journal.ErrGap) || errors.Is(err, journal.ErrForked) || errors.Is(err, journal.ErrUnreadable) {
			return append(wrong, fmt.Sprintf("journal %d: %v", n, err)), nil
		}
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			break
		}
		for i := range entries {
			e := &entries[i]
			p.firsts[n][e.Cause.Position.Offset] = e
		}
		p.journal[n] = append(p.journal[n], entries...)
	}
	if len(p.firsts[n]) != len(p.journal[n]) {
		wrong = append(wrong, fmt.Sprintf("journal %d: %d decisions of %d messages", n, len(p.journal[n]), len(p.firsts[n])))
	}
	if numbers != int64(len(p.journal[n])) {
		wrong = append(wrong, fmt.Sprintf("journal %d: %d decisions by one reading, %d by another", n, len(p.journal[n]), numbers))
	}
	return wrong, nil
}

// fetchAll reads a partition of a topic up to its present end.
func fetchAll(ctx context.Context, log driver.Log, topic string, n int32) ([]driver.Record, error) {
	first, end, err := log.Bounds(ctx, topic, n)
	var all []driver.Record
	for at := first; err == nil && at < end; {
		var recs []driver.Record
		if recs, err = log.Fetch(ctx, deja.Position{Topic: topic, Partition: n, Offset: at}, int(min(2000, end-at))); err == nil {
			all, at = append(all, recs...), recs[len(recs)-1].Offset+1
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s:%d: %w", topic, n, err)
	}
	return all, nil
}

// numbered is as much of a journal record as this program reads by itself.
type numbered struct {
	marker      bool
	n, life     int64
	prev, nonce string
}

// readNumbers looks at nothing but numbers, lives and hashes: the first copies must be dense and in order, each must
// follow from the one before, and every further copy must be the same. It returns how many decisions count.
func readNumbers(service string, partition int32, recs []driver.Record) (last int64, wrong []string) {
	var life numbered // of the marker that counts
	genesis := sha256.Sum256(fmt.Appendf(nil, "deja/genesis/1 %s %d", service, partition))
	chain := string(genesis[:])
	copies := map[int64][32]byte{}
	for _, rec := range recs {
		bad := func(format string, args ...any) {
			if len(wrong) < 5 {
				wrong = append(wrong, fmt.Sprintf("journal %d, offset %d: ", partition, rec.Offset)+fmt.Sprintf(format, args...))
			}
		}
		r, err := readNumber(rec.Value)
		hash := sha256.Sum256(rec.Value)
		switch {
		case err != nil:
			bad("%v", err)
		case r.marker && r.life > life.life:
			life = r
		case r.marker:
		case r.life > life.life:
			bad("decision %d is of life %d, and the newest marker of %d", r.n, r.life, life.life)
		case r.life != life.life || r.nonce != life.nonce: // written by one of an older life, too late
		case r.n <= last:
			if copies[r.n] != hash {
				bad("decision %d comes again and is another", r.n)
			}
		case r.n != last+1:
			bad("decision %d follows %d", r.n, last)
			last, chain = r.n, string(hash[:])
		case r.prev != chain:
			bad("decision %d does not follow from %d", r.n, last)
			last, chain = r.n, string(hash[:])
		default:
			last, chain = r.n, string(hash[:])
			copies[r.n] = hash
		}
	}
	return last, wrong
}

// readNumber reads fields 2 (number), 3 (hash of the one before), 4 and 5 (life) and 26 (kind).
func readNumber(data []byte) (r numbered, err error) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		default:
			return r, fmt.Errorf("field %d has wire type %d", num, typ)
		}
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		data = data[n:]
		switch num {
		case 2:
			r.n = int64(v)
		case 3:
			r.prev = string(b)
		case 4:
			r.life = int64(v)
		case 5:
			r.nonce = string(b)
		case 26:
			r.marker = v == 2
		}
	}
	return r, nil
}

// tally counts what became of the messages.
type tally struct {
	Messages   int64 `json:"messages"` // in the inbox
	Decisions  int64 `json:"decisions"`
	Applied    int64 `json:"applied"` // of what concerns money
	Rejected   int64 `json:"rejected"`
	Conflicts  int64 `json:"conflicts"`
	Duplicates int64 `json:"duplicates"`
}

// plus returns the sums.
func (t tally) plus(o tally) tally {
	return tally{
		t.Messages + o.Messages, t.Decisions + o.Decisions, t.Applied + o.Applied, t.Rejected + o.Rejected,
		t.Conflicts + o.Conflicts, t.Duplicates + o.Duplicates,
	}
}

// judge decides every message anew, by a model of a few lines, and compares with the journal.
func (p *past) judge() (t tally, wrong []string) {
	bad := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	p.repeats = map[repeat]int64{}
	firsts := map[deja.ID]*journal.Entry{} // the one decision of a key that is no conflict
	for n := range p.journal {
		for i := range p.journal[n] {
			e := &p.journal[n][i]
			if e.Decided.Status == deja.Conflicted {
				continue
			}
			key := wire.LedgerKey(p.service, &e.Cause)
			if other := firsts[key]; other != nil {
				bad("message %s was decided twice: %s and %s", e.Cause.ID, other.Cause.Position, e.Cause.Position)
			}
			firsts[key] = e
		}
	}
	for n := range p.inbox {
		covered := int64(-1)
		purses := map[string]purse{}
		for _, d := range p.inbox[n] {
			t.Messages++
			e, first := p.firsts[n][d.offset], firsts[d.key]
			at := fmt.Sprintf("message %s at %d:%d", d.env.ID, n, d.offset)
			switch {
			case e == nil && first == nil:
				bad("%s was lost: neither decided nor a duplicate", at)
			case e == nil && (first.Hash != d.hash || first.Cause.Position.Partition != int32(n) || first.Cause.Position.Offset >= d.offset):
				bad("%s was passed over, and is no duplicate of %s", at, first.Cause.Position)
			case e == nil:
				t.Duplicates++
				p.repeats[repeat{d.key, false}]++
			case e.Cause.ID != d.env.ID || e.Hash != d.hash || e.Cause.Stream != d.env.Stream:
				bad("%s: decision %d is about another", at, e.N)
			case e.Decided.Status == deja.Conflicted:
				t.Conflicts++
				p.repeats[repeat{d.key, true}]++
				if first == nil || first.Hash == d.hash {
					bad("%s is no conflict", at)
				}
				if d.env.Kind != deja.KindCommand || d.env.Sender != (deja.Stream{}) {
					bad("%s is a service's own %s, and conflicts", at, d.env.Type)
				}
			case e.Decided.Status == deja.Parked || e.Decided.Status == deja.DeadLetter:
				bad("%s, a %s: decision %d is %s: %v", at, d.env.Type, e.N, e.Decided.Status, &e.Decided.Reason)
			default:
				if not := model(d, e, purses, &t); not != "" {
					bad("%s: %s", at, not)
				}
			}
			if e != nil {
				t.Decisions++
				if e.Covers <= covered {
					bad("%s: decision %d covers %d, one before it %d", at, e.N, e.Covers, covered)
				}
				covered = e.Covers
			}
		}
		last := int64(-1)
		for i := range p.journal[n] {
			if off := p.journal[n][i].Cause.Position.Offset; off <= last {
				bad("journal %d: decision %d is about offset %d, the one before about %d", n, p.journal[n][i].N, off, last)
			} else {
				last = off
			}
		}
	}
	return t, wrong
}

// A purse is what the model knows of an account or a posting.
type purse struct {
	balance  int64
	reversed bool
}

// model decides anew what concerns money: a message to an account or a posting.
func model(d delivery, e *journal.Entry, purses map[string]purse, t *tally) string {
	var want deja.Status
	var after purse
	var err error
	before := purses[d.env.Stream.Key]
	switch d.env.Stream.Aggregate {
	case "account":
		want, after, err = modelAccount(d.env, before)
	case "posting":
		want, after, err = modelPosting(d.env, before)
	default:
		return ""
	}
	switch {
	case err != nil:
		return err.Error()
	case e.Decided.Status != want:
		return fmt.Sprintf("decision %d, of %s, is %s; after %+v it is %s", e.N, d.env.Type, e.Decided.Status, before, want)
	case want == deja.Rejected:
		t.Rejected++
		return ""
	}
	t.Applied++
	purses[d.env.Stream.Key] = after
	if n := len(e.Decided.Events); n > 1 || n == 0 && before != after {
		return fmt.Sprintf("decision %d has %d events", e.N, n)
	}
	return ""
}

func modelAccount(env *deja.Envelope, p purse) (deja.Status, purse, error) {
	m, err := decodeMessage(env)
	if m.Take {
		m.Amount = -m.Amount
	}
	if p.balance += m.Amount; p.balance < 0 {
		return deja.Rejected, p, err
	}
	return deja.Applied, p, err
}

func modelPosting(env *deja.Envelope, p purse) (deja.Status, purse, error) {
	if env.Type == (remit.Reverse{}).CommandType() {
		return deja.Applied, purse{reversed: true}, nil
	}
	var c remit.Post
	err := json.Unmarshal(env.Payload, &c)
	if p.reversed || c.To == remit.Nobody {
		return deja.Rejected, p, err
	}
	p.balance = c.Amount
	return deja.Applied, p, err
}

// checkTold compares what clients were told with the journal, and what was acknowledged with the inbox.
func (p *past) checkTold(l *load) (wrong []string) {
	bad := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	type content struct {
		id      deja.ID
		account string
		amount  int64
		take    bool
	}
	arrived := map[content]bool{}
	decided := map[deja.ID][]*journal.Entry{}
	for n := range p.inbox {
		for _, d := range p.inbox[n] {
			if m, err := decodeMessage(d.env); err == nil && d.env.Sender == (deja.Stream{}) {
				arrived[content{d.env.ID, d.env.Stream.Key, m.Amount, m.Take}] = true
			}
		}
		for i := range p.journal[n] {
			e := &p.journal[n][i]
			decided[e.Cause.ID] = append(decided[e.Cause.ID], e)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.acked {
		if !arrived[content{m.ID, accountKey(m.Account), m.Amount, m.Take}] {
			bad("message %s was acknowledged, and is not in the inbox", m.ID)
		}
	}
	for _, t := range l.tolds {
		matches := 0
		for _, e := range decided[t.Message.ID] {
			if e.Decided.Status != t.Status || e.Cause.Stream.Key != accountKey(t.Message.Account) {
				continue
			}
			switch {
			case t.Status == deja.Conflicted && e.Cause.Position.Offset == t.Position.Offset,
				t.Status == deja.Applied && e.Cause.Position.Offset == t.Position.Offset && e.Version == t.Version,
				t.Status == deja.Rejected && e.Decided.Reason.Code == t.Code:
				matches++
			}
		}
		if matches != 1 {
			bad("message %s was told %s at %s (version %d), and the journal has %d such decisions of its %d",
				t.Message.ID, t.Status, t.Position, t.Version, matches, len(decided[t.Message.ID]))
		}
	}
	return append(wrong, l.wrong...)
}

// checkPublic compares the public topic with the journal. missing says how many events are not there yet.
func (p *past) checkPublic(ctx context.Context, log driver.Log) (missing int, wrong []string, err error) {
	bad := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	events := map[string]*deja.Envelope{}
	for n := range p.journal {
		for i := range p.journal[n] {
			for j := range p.journal[n][i].Decided.Events {
				ev := &p.journal[n][i].Decided.Events[j]
				events[ev.ID.String()] = ev
			}
		}
	}
	p.public = map[string]bool{}
	versions := map[string]int64{} // the newest, by subject
	for n := range int32(partitions) {
		recs, err := fetchAll(ctx, log, publicTopic(p.service), n)
		if err != nil {
			return 0, nil, err
		}
		for _, r := range recs {
			h := map[string]string{}
			for _, header := range r.Headers {
				h[header.Name] = string(header.Value)
			}
			id, subject := h["ce_id"], h["ce_subject"]
			ev := events[id]
			switch {
			case ev == nil:
				bad("public topic %d:%d: event %s is not in the journal", n, r.Offset, id)
			case string(ev.Payload) != string(r.Value) || ev.Type != h["ce_type"] || subject != ev.Stream.Aggregate+"/"+ev.Stream.Key:
				bad("public topic %d:%d: event %s is another than in the journal", n, r.Offset, id)
			case !p.public[id]:
				p.public[id] = true
				before := versions[subject]
				if ev.Version != before+1 || h["ce_version"] != fmt.Sprint(ev.Version) {
					bad("public topic %d:%d: first copy of version %d of %s follows version %d", n, r.Offset, ev.Version, subject, before)
				}
				versions[subject] = ev.Version
			}
		}
	}
	return len(events) - len(p.public), wrong, nil
}
