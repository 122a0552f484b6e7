//go:build unix

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
)

// A break that no longer applies shows nothing, and is only run by hand.
func TestTheBreaksStillApply(t *testing.T) {
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range breakNames() {
		if _, err := edited(root, breaks[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := edited(root, []edit{{"go.mod", "no such text", ""}}); err == nil {
		t.Error("a break that does not apply was taken")
	}
}

func TestTheOpeningIsOfKindsThatExist(t *testing.T) {
	first, then := (&run{}).plan()
	if len(first) != len(opening) || len(then) != len(kinds()) {
		t.Errorf("%d of %d, %d of %d", len(first), len(opening), len(then), len(kinds()))
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, args := range [][]string{{"-break", "nothing"}, {"more"}, {"-only", "nothing"}, {"-rate", "0"}, {"-no-such-flag"}} {
		var said bytes.Buffer
		if code := command(t.Context(), args, io.Discard, &said); code != 2 || said.Len() == 0 {
			t.Errorf("%q: code %d, said %q", args, code, said.String())
		}
	}
}

// echo is a server that answers every piece with an answer and keeps what it got.
func echo(t *testing.T, answer string) (string, <-chan string) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	got := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				piece := make([]byte, 1024)
				for {
					n, err := c.Read(piece)
					if err != nil {
						return
					}
					got <- string(piece[:n])
					if _, err := c.Write([]byte(answer)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), got
}

// ask sends a piece through a proxy and returns the answer, or the error instead of one.
func ask(t *testing.T, p *proxy, piece string) (string, error) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.address())
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(piece)); err != nil {
		return "", err
	}
	answer := make([]byte, 1024)
	n, err := c.Read(answer)
	return string(answer[:n]), err
}

func TestAProxyLosesWhatItIsToldTo(t *testing.T) {
	address, got := echo(t, "X"+string(committed)+"Z")
	p, err := newProxy(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	well := func(when string) {
		t.Helper()
		if answer, err := ask(t, p, "hello"); err != nil || !strings.Contains(answer, "COMMIT") {
			t.Errorf("%s: %q, %v", when, answer, err)
		}
		if piece := <-got; piece != "hello" {
			t.Errorf("%s: the server got %q", when, piece)
		}
	}
	well("at first")
	p.loseCommits(1, time.Millisecond)
	if _, err := ask(t, p, "commit"); err == nil || p.lostCommits.Load() != 1 {
		t.Errorf("the answer to the COMMIT was not lost: %v", err)
	}
	if piece := <-got; piece != "commit" {
		t.Errorf("the server got %q: what was asked for did not happen", piece)
	}
	well("after a lost COMMIT")
	p.loseAnswers(1)
	if _, err := ask(t, p, "question"); err == nil || <-got != "question" {
		t.Errorf("the answer was not lost, or the question was: %v", err)
	}
	p.loseAppends(1, 0)
	if _, err := ask(t, p, "\x00\x00\x00\x09\x00\x00\x00\x0dappend"); err == nil || p.lostAppends.Load() != 1 || len(got) != 0 {
		t.Errorf("the request to append was not lost: %v", err)
	}
	well("after a lost request")
	p.refuse(time.Hour)
	if _, err := ask(t, p, "anybody"); err == nil || len(got) != 0 {
		t.Errorf("the connection was not refused: %v", err)
	}
	p.admit()
	well("after a refusal")
}

func TestAProxyHoldsADirectionUp(t *testing.T) {
	address, got := echo(t, "answer")
	p, err := newProxy(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	p.stall(toClient)
	answered := make(chan error, 1)
	go func() {
		_, err := ask(t, p, "question")
		answered <- err
	}()
	if piece := <-got; piece != "question" {
		t.Errorf("the server got %q", piece)
	}
	select {
	case err := <-answered:
		t.Errorf("answered (%v) while the direction is held up", err)
	default:
	}
	p.cut()
	if err := <-answered; err == nil || errors.Is(err, io.ErrNoProgress) {
		t.Errorf("the connection was not cut: %v", err)
	}
	p.calm()
	if answer, err := ask(t, p, "again"); err != nil || answer != "answer" {
		t.Errorf("%q, %v", answer, err)
	}
}

// chain makes journal records of a partition that follow from each other.
type chain struct {
	recs []driver.Record
	n    int64
	prev [32]byte
	life driver.Incarnation
}

func newChain() *chain { return &chain{prev: wire.Genesis(remit.Bank, 0)} }

func (c *chain) append(r *wire.Record) []byte {
	value := wire.AppendRecord(nil, r)
	c.put(value)
	return value
}

func (c *chain) put(value []byte) {
	c.recs = append(c.recs, driver.Record{Offset: int64(len(c.recs)), Value: value})
}

func (c *chain) decision(at int64, env *deja.Envelope, status deja.Status) []byte {
	c.n++
	cause := *env
	cause.Position.Offset = at
	hash, _ := wire.ContentHash(env)
	r := &wire.Record{Kind: wire.KindDecision, N: c.n, Prev: c.prev, Incarnation: c.life, Cause: cause, Hash: hash, Covers: at}
	if r.Decided.Status = status; status == deja.Applied {
		r.Version, r.Decided.Events = c.n, []deja.Envelope{{Kind: deja.KindEvent, ID: deja.NewID(), Type: "account.deposited", Payload: []byte(`{"amount":1}`)}}
	}
	value := c.append(r)
	c.prev = sha256.Sum256(value)
	return value
}

func (c *chain) marker() {
	c.life = driver.Incarnation{Number: c.life.Number + 1, Nonce: [16]byte{byte(c.life.Number + 1)}}
	c.append(&wire.Record{Kind: wire.KindMarker, N: c.n, Prev: c.prev, Incarnation: c.life})
}

func envelope(kind string, amount string) *deja.Envelope {
	return &deja.Envelope{
		ID: deja.NewID(), Kind: deja.KindCommand, Type: kind, Source: remit.Bank, ContentType: "application/json",
		Stream: deja.Stream{Aggregate: "account", Key: accountKey(0)}, Payload: []byte(`{"amount":` + amount + `}`),
	}
}

func TestNumbersAreReadByOthersEyes(t *testing.T) {
	put := envelope("account.deposit", "5")
	for name, tt := range map[string]struct {
		make func(c *chain)
		last int64
		want string // in what is wrong; "" if nothing is
	}{
		"dense":          {func(c *chain) { c.decision(0, put, deja.Applied); c.decision(1, put, deja.Conflicted) }, 2, ""},
		"a further copy": {func(c *chain) { v := c.decision(0, put, deja.Applied); c.decision(1, put, deja.Conflicted); c.put(v) }, 2, ""},
		"a new life":     {func(c *chain) { c.decision(0, put, deja.Applied); c.marker(); c.decision(1, put, deja.Conflicted) }, 2, ""},
		"an old life goes on": {func(c *chain) {
			c.decision(0, put, deja.Applied)
			old := *c
			c.marker()
			old.recs = nil
			c.put(old.decision(1, put, deja.Rejected))
			c.decision(1, put, deja.Conflicted)
		}, 2, ""},
		"a gap":         {func(c *chain) { c.decision(0, put, deja.Applied); c.n++; c.decision(1, put, deja.Conflicted) }, 3, "decision 3 follows 1"},
		"another chain": {func(c *chain) { c.decision(0, put, deja.Applied); c.prev[0]++; c.decision(1, put, deja.Conflicted) }, 2, "does not follow from"},
		"another copy": {func(c *chain) {
			c.decision(0, put, deja.Applied)
			other := newChain()
			c.put(other.decision(7, put, deja.Applied))
		}, 1, "comes again and is another"},
		"no marker": {func(c *chain) { c.life.Number = 3; c.decision(0, put, deja.Applied) }, 0, "is of life 3"},
		"garbage":   {func(c *chain) { c.put([]byte{0xff}) }, 0, "journal 0, offset 0"},
	} {
		c := newChain()
		tt.make(c)
		last, wrong := readNumbers(remit.Bank, 0, c.recs)
		said := strings.Join(wrong, "; ")
		if last != tt.last || (tt.want == "") != (said == "") || !strings.Contains(said, tt.want) {
			t.Errorf("%s: %d decisions, wrong: %q; want %d, %q", name, last, said, tt.last, tt.want)
		}
	}
}

// The judge must see each thing that can be wrong with a journal.
func TestTheJudgeSees(t *testing.T) {
	put, take := envelope("account.deposit", "5"), envelope("account.withdraw", "9")
	other := *put
	other.Payload = []byte(`{"amount":6}`)
	inbox := []*deja.Envelope{put, take, put, &other}
	right := func(c *chain) {
		c.decision(0, put, deja.Applied)
		c.decision(1, take, deja.Rejected)
		c.decision(3, &other, deja.Conflicted)
	}
	for name, tt := range map[string]struct {
		make func(c *chain)
		want string
	}{
		"right":         {right, ""},
		"lost":          {func(c *chain) { c.decision(0, put, deja.Applied); c.decision(3, &other, deja.Conflicted) }, "was lost"},
		"passed over":   {func(c *chain) { c.decision(0, put, deja.Applied); c.decision(1, take, deja.Rejected) }, "was passed over"},
		"overdraft":     {func(c *chain) { c.decision(0, put, deja.Applied); c.decision(1, take, deja.Applied) }, "after {balance:5 reversed:false} it is rejected"},
		"decided twice": {func(c *chain) { right(c); c.decision(2, put, deja.Applied) }, "was decided twice"},
		"out of order":  {func(c *chain) { c.decision(1, take, deja.Rejected); c.decision(0, put, deja.Applied) }, "the one before about"},
		"about another": {func(c *chain) { c.decision(0, take, deja.Rejected) }, "is about another"},
		"no conflict": {func(c *chain) {
			c.decision(0, put, deja.Applied)
			c.decision(1, take, deja.Rejected)
			c.decision(2, put, deja.Conflicted)
			c.decision(3, &other, deja.Conflicted)
		}, "is no conflict"},
	} {
		c := newChain()
		tt.make(c)
		p := &past{service: remit.Bank}
		p.firsts[0] = map[int64]*journal.Entry{}
		for i, env := range inbox {
			hash, err := wire.ContentHash(env)
			if err != nil {
				t.Fatal(err)
			}
			p.inbox[0] = append(p.inbox[0], delivery{int64(i), wire.LedgerKey(remit.Bank, env), hash, env})
		}
		for _, rec := range c.recs {
			r, err := wire.NewDecoder(remit.Bank).Record(0, rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			p.journal[0] = append(p.journal[0], journal.Entry{Record: r, Offset: rec.Offset})
		}
		for i := range p.journal[0] {
			p.firsts[0][p.journal[0][i].Cause.Position.Offset] = &p.journal[0][i]
		}
		tally, wrong := p.judge()
		said := strings.Join(wrong, "; ")
		if (tt.want == "") != (said == "") || !strings.Contains(said, tt.want) {
			t.Errorf("%s: wrong: %q; want %q", name, said, tt.want)
		}
		if tt.want == "" && (tally != tallyOf(4, 3, 1, 1, 1, 1)) {
			t.Errorf("%s: %+v", name, tally)
		}
	}
}

func tallyOf(messages, decisions, applied, rejected, conflicts, duplicates int64) tally {
	return tally{messages, decisions, applied, rejected, conflicts, duplicates}
}

// A fable is a past that a test makes up: decisions of one partition of each service.
type fable struct{ bank, ledger past }

// tell adds a decision about a stream: what it was about, and what it recorded.
func (f *fable) tell(p *past, stream string, sender string, events ...deja.Event) *journal.Entry {
	key := func(s string) deja.Stream {
		aggregate, key, _ := strings.Cut(s, "/")
		return deja.Stream{Aggregate: aggregate, Key: key}
	}
	e := journal.Entry{Record: &wire.Record{Cause: deja.Envelope{Stream: key(stream), Sender: key(sender)}}}
	e.Decided.Status = deja.Applied
	for _, ev := range events {
		payload, err := json.Marshal(ev)
		if err != nil {
			panic(err)
		}
		e.Decided.Events = append(e.Decided.Events, deja.Envelope{Stream: key(stream), Type: ev.EventType(), Payload: payload})
	}
	p.journal[0] = append(p.journal[0], e)
	return &e
}

// The books must show each thing that can be wrong between the services.
func TestTheBooksShow(t *testing.T) {
	start := remit.Start{From: "a", To: "b", Amount: 30, Patience: time.Second}
	mail := deja.NewID()
	begin := func(f *fable, key string) {
		f.tell(&f.bank, "remittance/"+key, "", remit.Started(start))
		f.tell(&f.bank, "account/a", "remittance/"+key, remit.Withdrawn{Amount: 30})
	}
	finish := func(f *fable, key string, effects ...deja.ID) {
		e := f.tell(&f.bank, "remittance/"+key, "", remit.Finished{})
		for _, id := range effects {
			e.Decided.Effects = append(e.Decided.Effects, deja.Envelope{ID: id})
			f.tell(&f.bank, "remittance/"+key, "", remit.Receipt{Number: id.String()})
		}
	}
	post := func(f *fable, key string) {
		f.tell(&f.ledger, "posting/"+key, "", remit.Posted{To: "b", Amount: 30})
		f.tell(&f.bank, "tally/b", "posting/"+key, remit.Counted{Amount: 30})
	}
	undo := func(f *fable, key string) {
		f.tell(&f.ledger, "posting/"+key, "remittance/"+key, remit.Reversed{})
		f.tell(&f.bank, "account/a", "remittance/"+key, remit.Deposited{Amount: 30})
		f.tell(&f.bank, "remittance/"+key, "", remit.GivenUp{Why: "time-out"}, remit.Undone{})
	}
	call := func(key deja.ID, answer receipt.Answer) receipt.Call {
		return receipt.Call{Key: key.String(), Send: receipt.Send{To: "a", Transfer: "r1", Amount: 30}, Answer: answer}
	}
	sent := []receipt.Call{call(mail, receipt.Sent), call(mail, receipt.Repeated)}
	for name, tt := range map[string]struct {
		tell  func(f *fable)
		calls []receipt.Call
		want  string // in what is wrong; "" if nothing is
	}{
		"right":       {func(f *fable) { post(f, "r1"); finish(f, "r1", mail); begin(f, "r2"); undo(f, "r2") }, sent, ""},
		"not ended":   {func(*fable) {}, nil, "remittance r1 has come to no right end"},
		"ended twice": {func(f *fable) { post(f, "r1"); finish(f, "r1", mail); finish(f, "r1") }, sent, "remittance r1 has come to no right end"},
		"late":        {func(f *fable) { undo(f, "r1"); post(f, "r1") }, nil, "money: 100 were paid in, and there are 130"},
		"lost":        {func(f *fable) { finish(f, "r1", mail) }, sent, "money: 100 were paid in, and there are 70"},
		"refunded":    {func(f *fable) { undo(f, "r1"); undo(f, "r1") }, nil, "money: 100 were paid in, and there are 130"},
		"not told": {func(f *fable) {
			f.tell(&f.ledger, "posting/r1", "", remit.Posted{To: "b", Amount: 30})
			finish(f, "r1", mail)
		}, sent, "the tallies have heard of"},
		"no receipt":    {func(f *fable) { post(f, "r1"); finish(f, "r1", mail) }, nil, "asked for 1 receipts, and 0 were sent"},
		"two receipts":  {func(f *fable) { post(f, "r1"); finish(f, "r1", mail) }, append(sent, sent...), "asked for 1 receipts, and 2 were sent"},
		"two keys":      {func(f *fable) { post(f, "r1"); finish(f, "r1", mail) }, append(sent, call(deja.NewID(), receipt.Sent)), "which is no effect's of it"},
		"other content": {func(f *fable) { post(f, "r1"); finish(f, "r1", mail) }, append(sent, call(mail, receipt.Refused)), "it answered refused"},
		"two effects":   {func(f *fable) { post(f, "r1"); finish(f, "r1", mail, deja.NewID()) }, sent, "asked for 2 receipts"},
		"another account": {func(f *fable) {
			undo(f, "r1")
			f.bank.journal[0][len(f.bank.journal[0])-2].Cause.Stream.Key = "c"
		}, nil, "its money moved at c"},
		"stuck": {func(f *fable) { f.tell(&f.bank, "remittance/r1", "", remit.Stuck{Why: "closed"}) }, nil, "is stuck: closed"},
	} {
		f := &fable{}
		f.tell(&f.bank, "account/a", "", remit.Deposited{Amount: 100})
		begin(f, "r1")
		tt.tell(f)
		l := &load{asked: []remittance{{Key: "r1", Start: start}}}
		if name == "right" {
			l.asked = append(l.asked, remittance{Key: "r2", Start: start})
			l.ended = []ended{{"r1", "remittance.finished"}, {"r2", "remittance.undone"}}
		}
		b, wrong := keepBooks(&f.bank, &f.ledger, tt.calls, l)
		said := strings.Join(wrong, "; ")
		if (tt.want == "") != (said == "") || !strings.Contains(said, tt.want) {
			t.Errorf("%s: wrong: %q; want %q", name, said, tt.want)
		}
		if want := (books{2, 1, 1, 1, 0, 1, 2, 100, 70, 30}); tt.want == "" && b != want {
			t.Errorf("%s: %+v, want %+v", name, b, want)
		}
		if twice := name == "two receipts" || name == "two keys"; (len(doubled(tt.calls)) > 0) != twice {
			t.Errorf("%s: doubled: %q", name, doubled(tt.calls))
		}
	}
}
