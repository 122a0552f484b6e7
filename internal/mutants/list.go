package main

// list holds every mutant of this module, in the order of the guarantees they
// belong to.
//
// A guarantee without a mutant is an intention: nothing shows that a test would
// notice its loss. To add one, break the promise by hand in the smallest way
// that a tired colleague might, name the test that fails, and write both down
// here; docs/guarantees.md quotes the table that -list prints.
var list = []Mutant{
	{
		Name:    "ledger-in-another-transaction",
		Rule:    "State, decision and ledger entry commit together or not at all.",
		Package: "./internal/step",
		Run:     "^TestSimulation$",
		Edits: []Edit{
			{"internal/step/handle.go", `	if err := tx.Write(ctx, &b.out); err != nil {`, `	ledger := b.out.Ledger
	b.out.Ledger = nil
	if err := tx.Write(ctx, &b.out); err != nil {`},
			{"internal/step/handle.go", `	case err == nil:
		return nil
	case errors.Is(err, driver.ErrFenced):
		return fmt.Errorf("commit: %w", err)`, `	case err == nil:
		later, err := w.cfg.Store.Begin(ctx, w.lease)
		if err != nil {
			return err
		}
		defer func() { _ = later.Rollback(ctx) }()
		if err := later.Write(ctx, &driver.Batch{Ledger: ledger}); err != nil {
			return err
		}
		if err := later.Advance(ctx, b.to, b.to); err != nil {
			return err
		}
		return later.Commit(ctx)
	case errors.Is(err, driver.ErrFenced):
		return fmt.Errorf("commit: %w", err)`},
		},
	},
	{
		Name:    "no-hash-compare",
		Rule:    "The same ID with other content is a conflict, never a silent duplicate.",
		Package: "./engine",
		Run:     "^TestDoTellsTheFirstOutcomeEveryTime$",
		Edits: []Edit{{"internal/step/handle.go", `	case known && first.Hash == m.Hash:`, `	case known:`}, {"internal/step/handle.go", `	case known:
		paths, err`, `	case known && first.Hash != m.Hash:
		paths, err`}, {"engine/client.go", `len(es) == 0 || es[0].Hash != m.hash {`, `len(es) == 0 {`}},
	},
	{
		Name:    "position-at-most",
		Rule:    "The position is compared for equality: a store that went back must not be advanced over what it lost.",
		Package: "./sqlite",
		Run:     "^TestConformance$",
		Edits:   []Edit{{"sqlite/lease.go", "AND token = ? AND position = ? AND n = ?", "AND token = ? AND position <= ? AND n = ?"}},
	},
	{
		Name:    "chain-not-compared",
		Rule:    "The chain is compared: the same position on another time line is another history.",
		Package: "./sqlite",
		Run:     "^TestConformance$",
		Edits:   []Edit{{"sqlite/lease.go", "AND position = ? AND n = ? AND chain = ?\"", "AND position = ? AND n = ? AND (chain = ? OR true)\""}},
	},
	{
		Name:    "epoch-not-compared",
		Rule:    "A worker whose partition was taken over writes nothing.",
		Package: "./sqlite",
		Run:     "^TestConformance$",
		Edits:   []Edit{{"sqlite/lease.go", "partition = ? AND epoch = ? AND nonce = ?\"", "partition = ? AND (epoch = ? OR true) AND nonce = ?\""}},
	},
	{
		Name:    "nonce-not-compared",
		Rule:    "Epochs repeat after a fail-over; the nonce of the take-over tells them apart.",
		Package: "./sqlite",
		Run:     "^TestConformance$",
		Edits:   []Edit{{"sqlite/lease.go", "partition = ? AND epoch = ? AND nonce = ?\"", "partition = ? AND epoch = ? AND (nonce = ? OR true)\""}},
	},
	{
		Name:    "self-rollback-unnoticed",
		Rule:    "A transaction that the engine rolled back by itself is noticed, and nothing of what follows is committed piecemeal.",
		Package: "./sqlite",
		Run:     "^TestFullDiskInProjection$",
		Edits: []Edit{
			{"sqlite/lease.go", "AND token = ?", "AND (token = ? OR true)"},
			{"sqlite/tx.go", `	case t.err != nil:
		return t.err
	case t.advanced:`, `	case t.advanced:`},
			{"sqlite/tx.go", `	case t.db.conn.AutocommitEnabled():
		return t.fail(errRolledBack)
`, ``},
			{"sqlite/tx.go", `	if err != nil && t.err == nil {
		t.err = t.db.noted(err)
	}
	return t.err`, `	return err`},
		},
	},
	{
		Name:    "acknowledged-before-synced",
		Rule:    "What is acknowledged was synced to the disk.",
		Package: "./sqlite",
		Run:     "^TestSettingsAreDurable$",
		Edits:   []Edit{{"sqlite/open.go", `"PRAGMA synchronous = FULL"`, `"PRAGMA synchronous = NORMAL"`}},
	},
	{
		Name:    "two-stores-on-a-topic",
		Rule:    "A service that shares a file works in one of its stores.",
		Package: "./sqlite",
		Run:     "^TestOneStoreForAService$",
		Edits: []Edit{{"sqlite/lease.go", `	if err == nil && taken > 0 {
		err = fmt.Errorf("%s %q belongs`, `	if err == nil && taken > 1 {
		err = fmt.Errorf("%s %q belongs`}},
	},
	{
		Name:    "stores-emptied-together",
		Rule:    "A store in a shared file is emptied alone.",
		Package: "./sqlite",
		Run:     "^TestTablesOfTwoServices$",
		Edits:   []Edit{{"sqlite/part.go", `return service == p.service`, `return service == p.service || p.service != ""`}},
	},
	{
		Name:    "timers-of-one-moment-skipped",
		Rule:    "Every timer that is due is told, however many are due at one moment.",
		Package: "./sqlite",
		Run:     "^TestConformance$",
		Edits:   []Edit{{"sqlite/reader.go", `(due, tenant, aggregate, key) > (?, ?, ?, ?)`, `due > ? AND (tenant, aggregate, key) > (?, ?, ?)`}},
	},
	{
		Name:    "id-by-index-only",
		Rule:    "A derived ID names the emitter's stream and the type: an index alone collides and shifts.",
		Package: ".",
		Run:     "^(TestDerivedIDsTellEmissionsApart|TestDerivedIDsAreFrozen)$",
		Edits:   []Edit{{"id.go", `service, stream.Tenant, stream.Aggregate, stream.Key, string(cause[:]), typ, strconv.Itoa(nth))`, `service, string(cause[:]), strconv.Itoa(nth))`}, {"id.go", `stream Stream, cause ID, typ string, nth int) ID {`, `_ Stream, cause ID, _ string, nth int) ID {`}},
	},
	{
		Name:    "rejection-not-journalled",
		Rule:    "Refusals have journal records too: a rebuilt service must not decide them again.",
		Package: "./internal/step",
		Run:     "^TestSimulation$",
		Edits: []Edit{{"internal/step/handle.go", `	b.out.Records = append(b.out.Records, driver.JournalRecord{N: r.N, Value: raw})
	b.to.N, b.to.Chain, b.to.Time, b.to.Fold = r.N, wire.Hash(raw), r.Time, r.Fold
`, `	if r.Decided.Status != deja.Rejected {
		b.out.Records = append(b.out.Records, driver.JournalRecord{N: r.N, Value: raw})
		b.to.N, b.to.Chain = r.N, wire.Hash(raw)
	}
	b.to.Time, b.to.Fold = r.Time, r.Fold
`}},
	},
	{
		Name:    "told-before-logged",
		Rule:    "Nothing leaves before the journal has it.",
		Package: "./internal/step",
		Run:     "^TestSimulation$",
		Edits: []Edit{{"internal/step/handle.go", `	if w.joint {
		w.released = b.to.N
		return nil
	}
	if b.out.Logged {`, `	w.released = b.to.N
	if w.joint {
		return nil
	}
	if b.out.Logged {`}},
	},
	{
		Name:    "commit-error-taken-as-no",
		Rule:    "An error of COMMIT is settled by a new epoch before anyone is told anything.",
		Package: "./engine",
		Run:     "^TestAnUnknownCommitIsSettledBeforeItIsTold$",
		Edits: []Edit{
			{"engine/pipeline.go", `	"context"
`, `	"context"
	"errors"
`},
			{"engine/pipeline.go", `		done, err := l.w.Commit(l.ctx, b)
`, `		done, err := l.w.Commit(l.ctx, b)
		if errors.Is(err, step.ErrUnknown) { // so nothing was written
			<-l.flying
			continue
		}
`},
		},
	},
	{
		Name:    "parked-key-not-blocked",
		Rule:    "Behind a parked message its key waits; later messages do not overtake it.",
		Package: "./engine",
		Run:     "^TestAParkedKeyIsBlockedUntilAnOperatorActs$",
		Edits:   []Edit{{"internal/step/handle.go", `		if h.row.Parked > 0 {`, `		if h.row.Parked < 0 {`}},
	},
	{
		Name:    "cached-state-kept-after-rollback",
		Rule:    "After a transaction that failed nothing that was cached is believed.",
		Package: "./internal/step",
		Run:     "^TestSimulation$",
		Edits: []Edit{
			{"internal/step/worker.go", `func (w *Worker) forget() { w.states, w.changed, w.bytes = map[deja.Stream]*held{}, nil, 0 }`, `func (w *Worker) forget() {
	if w.states == nil {
		w.states = map[deja.Stream]*held{}
	}
	for _, h := range w.changed {
		h.changed = false
	}
	w.changed = nil
}`},
		},
	},
	{
		Name:    "journal-not-adopted",
		Rule:    "A store behind its journal adopts what was decided, and decides nothing again.",
		Package: "./internal/step",
		Run:     "^(TestAStoreBehindItsJournalAdoptsIt|TestSimulation)$",
		Edits: []Edit{{"internal/step/takeover.go", `		if err := b.redoAll(ctx, entries); err != nil || !b.full() {
			return err
		}`, `		if !b.full() {
			return nil
		}`}},
	},
	{
		Name:    "no-new-life",
		Rule:    "A store that went back begins a new life, after whose marker nothing of an older one counts.",
		Package: "./internal/step",
		Run:     "^TestAStoreBehindItsJournalAdoptsIt$",
		Edits: []Edit{{"internal/step/takeover.go", `	if found.back {
		if err := w.beginLife(ctx, r); err != nil {
			return err
		}
	}
`, ``}, {"internal/step/takeover.go", `	if err := w.adopt(ctx, r, found.back); err != nil {`, `	if err := w.adopt(ctx, r, false); err != nil {`}},
	},
	{
		Name:    "read-ahead-believed",
		Rule:    "What is read before the transaction must not be ahead of the worker.",
		Package: "./internal/step",
		Run:     "^TestWhatWasReadMustNotBeAheadOfTheWorker$",
		Edits:   []Edit{{"internal/step/handle.go", `e.Partition == b.w.cfg.Partition && e.N > b.committed {`, `e.Partition == b.w.cfg.Partition && e.N > b.committed+1000 {`}},
	},
	{
		Name:    "relay-past-a-failure",
		Rule:    "The relay starts at the oldest decision that was not acknowledged.",
		Package: "./internal/step",
		Run:     "^TestTheRelayStopsAtAFailure$",
		Edits: []Edit{{"internal/step/relay.go", `		at, err := w.cfg.Log.Append(ctx, w.journal.Name, recs)
		if err != nil {
			return fmt.Errorf("relay decisions from %d on: %w", waiting[0].N, err)
		}
		w.relayed = waiting[len(waiting)-1].N`, `		w.relayed = waiting[len(waiting)-1].N
		at, err := w.cfg.Log.Append(ctx, w.journal.Name, recs)
		if err != nil {
			continue
		}`}},
	},
	{
		Name:    "state-shared-with-the-handler",
		Rule:    "Only recorded events change a state: a handler gets one of its own.",
		Package: ".",
		Run:     "^TestAHandlerCannotChangeTheState$",
		Edits:   []Edit{{"compile.go", `	case reflect.Map, reflect.Slice,`, `	case reflect.Slice,`}},
	},
	{
		Name:    "half-folded-state-kept",
		Rule:    "An apply function that panics leaves the state as it was.",
		Package: "./internal/step",
		Run:     "^TestAFoldThatPanicsLeavesTheStateAlone$",
		Edits: []Edit{{"internal/step/handle.go", `	restored.changed, restored.size = h.changed, h.size
	*h = *restored
`, `	_ = restored
`}},
	},
	{
		Name:    "append-time-as-it-comes",
		Rule:    "Decision time never falls, whatever the log's clock does.",
		Package: "./internal/step",
		Run:     "^TestDecisionTimeIsTheAppendTimeOrTheLastDecisions$",
		Edits:   []Edit{{"internal/step/handle.go", `	r.Time = later(b.to.Time, at)`, `	r.Time = later(time.Time{}, at)`}},
	},
	{
		Name:    "old-fold-kept",
		Rule:    "States folded by an older fold version are folded again before anything is decided on them.",
		Package: "./internal/step",
		Run:     "^TestAChangedFoldVersionFoldsAnew$",
		Edits:   []Edit{{"internal/step/takeover.go", `	reset := rebuild || stale || found.void`, `	reset := rebuild || stale && false || found.void`}},
	},
	{
		Name:    "drain-forgotten",
		Rule:    "An operator's act that a crash cut short goes on where it was.",
		Package: "./internal/step",
		Run:     "^TestAnActThatWasCutShortGoesOnWithItsDrain$",
		Edits:   []Edit{{"internal/step/act.go", `	return r.Act == act, nil`, `	return r.Act == act && r.Act.IsZero(), nil`}},
	},
	{
		Name:    "duplicate-not-counted",
		Rule:    "Every suppressed delivery is counted, with the first and the last position.",
		Package: "./internal/step",
		Run:     "^TestSimulation$",
		Edits: []Edit{{"internal/step/handle.go", `		b.repeat(m.Key, offset, false)
		b.settled`, `		b.settled`}},
	},
	{
		Name:    "size-checked-after-commit",
		Rule:    "A decision that the journal would never take is refused before it is committed.",
		Package: "./internal/step",
		Run:     "^TestADecisionTooLargeForTheJournalIsRefused$",
		Edits:   []Edit{{"internal/step/handle.go", `limit := w.journal.MaxRecord; len(raw) > limit {`, `limit := w.journal.MaxRecord; len(raw) > limit<<10 {`}},
	},
	{
		Name:    "committed-is-told",
		Rule:    "Whoever waits is told what the journal has, never what is only committed.",
		Package: "./engine",
		Run:     "^TestNothingIsToldBeforeTheJournalHasIt$",
		Edits: []Edit{
			{"engine/pipeline.go", `	"github.com/dejalog/deja/internal/step"
`, `	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
`},
			{"engine/pipeline.go", `	l.p.warnOfParked(l.ctx, done)
`, `	l.p.warnOfParked(l.ctx, done)
	for i := range done {
		if done[i].Record != nil {
			l.p.tail.tell(l.p.tail.reading, []journal.Entry{{Record: done[i].Record}})
		}
	}
`},
		},
	},
	{
		Name:    "act-beside-a-commit",
		Rule:    "An operator's act is handled with nothing under way: what is not committed yet it would miss.",
		Package: "./engine",
		Run:     "^TestAnActSeesWhatWasParkedRightBeforeIt$",
		Edits: []Edit{{"engine/pipeline.go", `		done, err := l.w.Commit(l.ctx, b)
		if err != nil {
			return err
		}
		l.settled(done)
		<-l.flying
`, `		<-l.flying
		done, err := l.w.Commit(l.ctx, b)
		if err != nil {
			return err
		}
		l.settled(done)
`}},
	},
	{
		Name:    "barrier-ignored",
		Rule:    "Nobody decides while the ledger of a store that was made anew has gaps.",
		Package: "./engine",
		Run:     "^TestNobodyDecidesBeforeAllJournalsAreRead$",
		Edits:   []Edit{{"engine/partition.go", `len(missing) == 0 {`, `len(missing) >= 0 {`}},
	},
	{
		Name:    "idle-worker-not-fenced",
		Rule:    "A worker that has nothing to write notices too that its lease is another's: it would keep all others waiting.",
		Package: "./engine",
		Run:     "^TestANewerFoldVersionSupersedesAnOlderProcess$",
		Edits:   []Edit{{"engine/partition.go", `	if p.lease.epoch == was.epoch && p.lease.nonce == was.nonce {`, `	if p.lease.epoch == was.epoch && p.lease.nonce != was.nonce {`}},
	},
	{
		Name:    "deaths-not-counted",
		Rule:    "A message that kills its processes is parked after a stated number of them.",
		Package: "./engine",
		Run:     "^TestAMessageThatKillsItsProcessIsParked$",
		Edits:   []Edit{{"engine/pipeline.go", `died >= maxAttempts {`, `died < 0 {`}},
	},
	{
		Name:    "lease-kept-by-nobody",
		Rule:    "A process does not keep what it does not work on from those who would.",
		Package: "./engine",
		Run:     "^TestALeaseWithoutAWorkerIsGivenBack$",
		Edits:   []Edit{{"engine/run.go", `l.Owner != r.member.ID || r.jobs`, `l.Owner == r.member.ID || r.jobs`}},
	},
	{
		Name:    "cursor-ahead-of-the-inbox",
		Rule:    "A cursor moves on when all before it is durable where it goes.",
		Package: "./engine",
		Run:     "^TestTheCursorIsNeverAheadOfTheInbox$",
		Edits: []Edit{{"engine/consume.go", `		if len(rs) > 0 {
`, `		if err := cursors.SetCursor(ctx, reader, c.Topic, number, recs[len(recs)-1].Offset+1); err != nil {
			return err
		}
		if len(rs) > 0 {
`}},
	},
	{
		Name:    "not-understood-and-skipped",
		Rule:    "A foreign record that is not understood is not skipped.",
		Package: "./engine",
		Run:     "^TestAForeignRecordThatIsNotUnderstoodStopsItsPartition$",
		Edits: []Edit{{"engine/consume.go", `			more, err := p.e.consumed(c, t, &recs[i])
			if err != nil {
				return err
			}
`, `			more, err := p.e.consumed(c, t, &recs[i])
			if err != nil {
				continue
			}
`}},
	},
	{
		Name:    "index-not-checked",
		Rule:    "A history's index is not believed without its checksums.",
		Package: "./history",
		Run:     "^TestADamagedIndexIsMadeAnew$",
		Edits: []Edit{{
			"internal/trail/segment_read.go", `binary.LittleEndian.Uint32(buf[len(body):]) != checksum(s.stamp, at, body)`,
			`binary.LittleEndian.Uint32(buf[len(body):]) != checksum(s.stamp, at, body) && len(body) == 0`,
		}},
	},
	{
		Name:    "index-of-a-fork",
		Rule:    "An index is of the very decisions that the log has.",
		Package: "./history",
		Run:     "^TestAnIndexOfALogThatForkedIsMadeAnew$",
		Edits: []Edit{{"history/build.go", `		if !ok {
			return fmt.Errorf("%w: decision`, `		if !ok && p < 0 {
			return fmt.Errorf("%w: decision`}},
	},
	{
		Name:    "index-root-before-its-segments",
		Rule:    "An index's root is written when all that it points to is there.",
		Package: "./internal/trail",
		Run:     "^TestARootIsWrittenLast$",
		Edits: []Edit{{"internal/trail/file.go", `	if err := t.f.Sync(); err != nil {
		return err
	}
	if _, err := t.f.WriteAt(encodeSlot(r.generation, at, b), slotAt(r.generation)); err != nil {
		return err
	}
`, `	if _, err := t.f.WriteAt(encodeSlot(r.generation, at, b), slotAt(r.generation)); err != nil {
		return err
	}
`}},
	},
	{
		Name:    "state-forgotten-before-it-is-indexed",
		Rule:    "A state that building drops from memory is in the index.",
		Package: "./history",
		Run:     "^TestAnIndexAnswersAsAFoldDoes$",
		Edits:   []Edit{{"history/fill.go", `oldest.n > persisted || oldest == l`, `oldest == l`}},
	},
	{
		Name:    "cancel-bars-nothing",
		Rule:    "A reservation that is cancelled before it comes is refused when it comes.",
		Package: "./reservation",
		Run:     "^TestAnyOrderOfMessages$",
		Edits: []Edit{{"reservation/holds.go", `	return d.Time().Before(until), nil
}

// MayExpire `, `	return false, nil
}

// MayExpire `}},
	},
	{
		Name:    "forgotten-and-guessed",
		Rule:    "What a pool has forgotten is answered as unknown: it may have been confirmed.",
		Package: "./reservation",
		Run:     "^TestAnyOrderOfMessages$",
		Edits: []Edit{{"reservation/holds.go", `	if until.After(h.Forgotten) {
		h.Forgotten = until
	}
`, ``}},
	},
	{
		Name:    "release-bars-nothing",
		Rule:    "A claim that is released before it comes is refused when it comes.",
		Package: "./uniquename",
		Run:     "^TestAnyOrderOfMessages$",
		Edits:   []Edit{{"uniquename/name.go", `	n.Released[owner] = until // after`, `	// after`}},
	},
	{
		Name:    "cursor-ahead-of-append",
		Rule:    "A route's cursor is never ahead of what the inbox has acknowledged.",
		Package: "./internal/remit",
		Run:     "^TestCrashMatrixInMemory$",
		Edits: []Edit{{"engine/carry.go", `	if len(out) > 0 {
		if _, err := c.e.log.Append(`, `	c.at = at
	if err := c.note(ctx, true); err != nil {
		return err
	}
	if len(out) > 0 {
		if _, err := c.e.log.Append(`}},
	},
	{
		Name:    "react-id-per-carry",
		Rule:    "What is carried twice has the same ID, and is handled once.",
		Package: "./engine",
		Run:     "^TestACursorThatIsLostMakesNothingHappenTwice$",
		Edits:   []Edit{{"internal/route/route.go", `m.ID = r.Machine.Derive(s, ev.ID, "react")`, `m.ID = deja.NewID()`}},
	},
	{
		Name:    "react-before-since",
		Rule:    "A reaction that a deploy brings begins where the journal was then, even if it is carried again.",
		Package: "./engine",
		Run:     "^TestAReactionBeginsWithTheBuildThatHasIt$",
		Edits: []Edit{{"internal/route/route.go", `	if rec.N <= r.Since {
		return out, nil
	}
`, ``}},
	},
	{
		Name:    "reply-of-parked",
		Rule:    "A parked command has no outcome yet, and no reply.",
		Package: "./engine",
		Run:     "^TestAParkedCommandIsAnsweredWhenItIsSettled$",
		Edits:   []Edit{{"internal/route/route.go", ` || rec.Decided.Status == deja.Parked {`, ` {`}},
	},
	{
		Name:    "reply-of-forgotten",
		Rule:    "The reply to a command that nobody hears of is not carried.",
		Package: "./engine",
		Run:     "^TestTheReplyOfAForgottenCommandIsNotCarried$",
		Edits:   []Edit{{"internal/route/route.go", `	return saga == nil || saga.Hears(c.Type)`, `	return saga == nil || saga.Hears(c.Type) || c.Type != ""`}},
	},
	{
		Name:    "timer-cancelled-still-fires",
		Rule:    "A timer that was cancelled or set anew while it fired does nothing.",
		Package: "./engine",
		Run:     "^TestATimerThatIsCancelledWhileItFiresDoesNothing$",
		Edits: []Edit{{"internal/wire/open.go", `		case i < 0:
			return reason.Because("the timer was cancelled or superseded")`, `		case i < 0:
			return nil`}},
	},
	{
		Name:    "timer-early-is-lost",
		Rule:    "A timer that fires before its time stays pending.",
		Package: "./engine",
		Run:     "^TestATimerThatFiresEarlyIsArmedAgain$",
		Edits: []Edit{{"internal/wire/open.go", `			o.Timers[i].Command.ID = AfterEarly(m.ID)
`, ``}},
	},
	{
		Name:    "time-out-before-the-backlog",
		Rule:    "Nothing times out that a backlog answers, in the inbox or in a journal that is not carried yet.",
		Package: "./engine",
		Run:     "^TestAnOutageTimesNothingOutThatTheBacklogAnswers$",
		Edits: []Edit{{"engine/wheel.go", `	if wh.asked.IsZero() {
		if err`, `	if at := wh.w.Progress().Time; at.After(wh.mark) {
		wh.mark = at
	}
	if wh.asked.IsZero() {
		if err`}},
	},
	{
		Name:    "effect-before-logged",
		Rule:    "An effect is performed when the decision that asks for it is logged.",
		Package: "./engine",
		Run:     "^TestAnEffectWaitsUntilItsDecisionIsLogged$",
		Edits: []Edit{
			{"internal/step/recent.go", `	if n >= w.released {`, `	if n >= w.progress.N {`},
			{"internal/step/recent.go", `int(w.released+1-`, `int(w.progress.N+1-`},
		},
	},
	{
		Name:    "effect-key-per-try",
		Rule:    "All tries of an effect bear one key.",
		Package: "./engine",
		Run:     "^TestAnOpenEffectOutlivesProcessAndStore$",
		Edits:   []Edit{{"engine/effect.go", `call(ctx, p.e.machine.Codec(), e.ID, e.Payload)`, `call(ctx, p.e.machine.Codec(), deja.NewID(), e.Payload)`}},
	},
	{
		Name:    "effect-after-its-window",
		Rule:    "A provider is not called with a key that it may have forgotten, however long the effect had to wait.",
		Package: "./engine",
		Run:     "^TestAnEffectIsNotTriedWhenItsTurnComesTooLate$",
		Edits: []Edit{{"engine/effect.go", `	call, ok := pf.call(e)
	if !ok {
		pf.breaker.passed()`, `	call, ok := pf.Do, true
	if !ok {
		pf.breaker.passed()`}},
	},
	{
		Name:    "effect-left-in-the-store",
		Rule:    "Effects that memory has no room for are performed when it has.",
		Package: "./engine",
		Run:     "^TestMoreEffectsThanAPartitionKeepsAreAllPerformed$",
		Edits: []Edit{{"engine/effect.go", `			delete(x.overflow, name)
			if types == nil {`, `			delete(x.overflow, name)
			continue
			if types == nil {`}},
	},
	{
		Name:    "result-closes-nothing",
		Rule:    "An effect is open until its result was decided, and no longer.",
		Package: "./engine",
		Run:     "^TestNoMoreEffectsArePerformedAtATimeThanIsSaid$",
		Edits: []Edit{{"internal/wire/open.go", `func(e Effect) bool { return e.ID == m.CausationID })
	case deja.KindTimer:
		i := slices.IndexFunc(o.Timers, func(t deja.Timer) bool { return t.Command.ID == m.ID })
		if i < 0 {`, `func(e Effect) bool { return e.ID == m.ID })
	case deja.KindTimer:
		i := slices.IndexFunc(o.Timers, func(t deja.Timer) bool { return t.Command.ID == m.ID })
		if i < 0 {`}},
	},
}
