// Package driver holds the interfaces that logs and stores implement, and ends there: what the bytes of a record
// mean is not a driver's business. Package [github.com/dejalog/deja/drivertest] holds their contracts as tests.
//
// All calls are set-wise, and safe for concurrent use unless said otherwise. A driver keeps no argument after it has
// returned, and what it returns belongs to the caller. Drivers return their engine's errors raw, wrapped with %w
// where one of this package's applies.
package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
)

var (
	// ErrFenced is returned by Begin, Advance, Commit, Logged, Ready, Attempt, Release and Reset when the lease is not the newest one of its partition, or
	// the store is not where the caller left it. Nothing was written; the caller drops all that it knows and
	// acquires anew.
	ErrFenced = errors.New("fenced: the lease was taken over, or the store is not where this worker left it")

	// ErrNotFound is returned by Topic on a log without that topic that does not create it: one open for reading only, or a
	// server's.
	ErrNotFound = errors.New("not found")

	// ErrTrimmed is returned by Fetch for a position below the log's first record.
	ErrTrimmed = errors.New("trimmed: the log begins after the position")

	// ErrBeyondEnd is returned by Fetch for a position above the log's end: the log was truncated, or is another.
	ErrBeyondEnd = errors.New("beyond the end of the log: it was truncated, or is another log")

	// ErrIdentity is returned by Acquire when the store is bound to another log than the one it is given, and by a log
	// that is no longer the one it was. The three below say in what, where that is known.
	ErrIdentity = errors.New("not the log that it was")

	// ErrCluster says that the topics are another cluster's: addresses were swapped, or the cluster was made anew.
	ErrCluster = fmt.Errorf("%w: another cluster", ErrIdentity)

	// ErrRecreated says that a topic was deleted, and perhaps created anew under its old name.
	ErrRecreated = fmt.Errorf("%w: the topic was deleted or created anew", ErrIdentity)

	// ErrPartitions says that a topic has another number of partitions: keys would be placed elsewhere than before.
	ErrPartitions = fmt.Errorf("%w: another number of partitions", ErrIdentity)

	// ErrUnusable is wrapped by errors that trying again does not mend: the log or store is closed, opened for reading
	// only, or a projection's table cannot be made.
	ErrUnusable = errors.New("cannot be used")

	// ErrTooLarge is returned by Append for a record above the topic's limit; nothing of the call was appended.
	ErrTooLarge = errors.New("record too large for its topic")
)

// A Topic is a topic's identity: what tells it from another, and from itself recreated.
type Topic struct {
	Name       string
	Cluster    string // the log it belongs to
	ID         string // given when the topic was created
	Partitions int32
	MaxRecord  int // largest record in bytes
}

// A Record is one record of a log. Offset and Time are the log's to give.
type Record struct {
	Partition int32
	Offset    int64
	Time      time.Time // when the log appended it; UTC, microseconds
	Key       string    // what it was placed by; a log need not give it back
	Value     []byte
	Headers   []Header // for readers that do not know what the value means; a log need not keep them
}

// A Header is a name and a value beside a record's own.
type Header struct {
	Name  string
	Value []byte
}

// A Log is a durable, append-only, partitioned log of topics.
type Log interface {
	// Topic returns a topic's identity. An embedded log creates the topic at first use.
	Topic(ctx context.Context, name string) (Topic, error)

	// Append appends records, in order per partition, and returns the position of each once all are durable. Every
	// record gets a position of its own, repeated or not. It stops at the first failure; after an error any prefix
	// may have been appended, and what was is *maybe* there: appending again is safe for readers that know ids.
	Append(ctx context.Context, topic string, rs []Record) ([]deja.Position, error)

	// Fetch returns up to max records from a position on, in order, at least one; at the end it blocks until there
	// is one or ctx ends, and then returns ctx's error. Offsets rise, but may have gaps. The driver bounds the bytes of one
	// answer, to 16 MiB at most but for a single larger record.
	Fetch(ctx context.Context, from deja.Position, max int) ([]Record, error)

	// Bounds returns the offset of the first record still there, or one before it with nothing in between, and the offset
	// right after the last; equal when empty.
	Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error)

	// Close releases what the log holds. Other calls then fail.
	Close() error
}

// An Assignment says what a worker works on: a partition of a service's two topics.
type Assignment struct {
	Inbox, Journal Topic
	Partition      int32
	Tables         []deja.TableDef // the projections' tables, created where they are missing
	Owner          deja.ID         // the [Member] that works on it; zero for a tool, which holds it against nobody
	TTL            time.Duration   // how long it is the owner's without a further Beat
}

// An Incarnation tells the lives of a service's store apart. A store that went back takes the next one.
type Incarnation struct {
	Number int64
	Nonce  [16]byte
}

// Progress is how far a partition was handled.
type Progress struct {
	Position    int64     // the next inbox offset to handle
	N           int64     // the number of the last decision, dense from 1
	Chain       [32]byte  // the hash of the last decision's journal record; zero before the first
	Time        time.Time // of the last decision; UTC, microseconds
	Incarnation Incarnation
	Fold        string // the fold version of states and projections; "" before the first decision
}

// Logged is how far the journal is known to hold the decisions: where reading it goes on, and from what.
type Logged struct {
	Offset      int64    // the journal offset to read on from
	N           int64    // read back up to decision N
	Chain       [32]byte // the hash of its record
	Incarnation Incarnation
}

// A Lease is the right to write a partition, until a later Acquire takes it away.
type Lease struct {
	Assignment
	Epoch    int64 // issued by the store, rising
	Nonce    [16]byte
	Progress Progress
	Logged   Logged
	Copied   bool // the store was copied and adopted, or went back, and the partition has not advanced under a new incarnation yet: take one

	Held    bool  // by its owner, whose time has not run out: as [Reader.Leases] tells, by the store's clock
	Tries   int64 // how many owners in turn acquired the partition, this one included, since it last advanced or was released
	Careful int64 // the inbox offset below which messages are handled one by one, each noted by Attempt; 0 at first
}

// An Entry is a line of the ledger: the first message of a key, and how it was settled.
type Entry struct {
	Key       deja.ID  // the message's identity in this service
	Hash      [32]byte // of its content
	Partition int32
	Offset    int64 // in the inbox
	N         int64 // the decision that settled it; of a parked message, the one that parked it
	Status    deja.Status
}

// A State is a row of an aggregate's state.
type State struct {
	Stream    deja.Stream
	Partition int32
	Version   int64
	Data      []byte    // as deja.State encodes it; empty at version 0
	Position  int64     // the inbox offset up to which all was decided when the version last changed
	N         int64     // the decision that last changed the row
	Parked    int64     // how many of the stream's messages are parked
	Open      []byte    // what the stream waits for; empty if for nothing
	Due       time.Time // when the earliest of its timers is due; zero if it has none; UTC, microseconds
}

// A Parked message waits for an operator. It is a pointer into the inbox.
type Parked struct {
	Stream    deja.Stream
	Partition int32
	Offset    int64
	Key       deja.ID // its ledger entry's
	N         int64   // the decision that parked it
}

// A Repeat counts the further deliveries of a ledger key: suppressed duplicates, or conflicts.
type Repeat struct {
	Key         deja.ID
	Partition   int32
	Conflict    bool
	Count       int64
	First, Last int64 // inbox offsets
}

// A JournalRecord is a decision's record on its way to the journal.
type JournalRecord struct {
	N     int64
	Value []byte
}

// A Batch is all that one core transaction writes: a field, and a statement, per table.
type Batch struct {
	Records  []JournalRecord // in order of N; kept until logged. A joint store appends them to its log's journal
	Ledger   []Entry         // new, or (a parked message decided again) replacing the parked one of its key and partition, in whatever segment; of one key in order
	States   []State         // replacing those of the same streams
	Parked   []Parked        // new
	Unparked []Parked        // removed, by partition and offset; after Parked, which may hold the same ones
	Repeats  []Repeat        // added to the counts of the same key and kind
	Logged   bool            // the records are in the journal already: they were adopted from it
	Asked    int64           // the smallest mark of the look-ups that the ledger entries rest on; 0: all of the ledger is asked again
}

// A Reader is the reading side of a store. What it returns is committed.
type Reader interface {
	// Progress returns how far a partition was handled; the zero Progress if it never was.
	Progress(ctx context.Context, partition int32) (Progress, error)
	// Leases returns the partitions' leases as they are, in order of partitions; none of one that was never acquired.
	Leases(ctx context.Context) ([]Lease, error)
	// Lookup returns the ledger's entries among the keys, in any order, and a mark of how old the answer is, for
	// [Batch].Asked: whatever is settled later, by another partition's worker, Write will notice.
	Lookup(ctx context.Context, keys []deja.ID) (es []Entry, asked int64, err error)
	// Find returns up to max entries with lo ≤ key ≤ hi, in order of keys.
	Find(ctx context.Context, lo, hi deja.ID, max int) ([]Entry, error)
	// Load returns the states that exist among the streams, in any order.
	Load(ctx context.Context, streams []deja.Stream) ([]State, error)
	// States returns up to max states after a stream, in order of tenant, aggregate, key (by bytes).
	States(ctx context.Context, after deja.Stream, max int) ([]State, error)
	// Open returns up to max states of a partition that wait for something, after a stream, in order of tenant, aggregate,
	// key (by bytes).
	Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]State, error)
	// Due returns up to max states of a partition whose Due is set and not after a time, in order of Due, then of streams:
	// those after a state in that order; the zero State is before the first.
	Due(ctx context.Context, partition int32, until time.Time, after State, max int) ([]State, error)
	// Parked returns up to max parked messages of a partition from an inbox offset on, in order. A non-zero stream
	// restricts them to its own.
	Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, max int) ([]Parked, error)
	// Repeats returns what is counted for a ledger key, at most one of each kind.
	Repeats(ctx context.Context, key deja.ID) ([]Repeat, error)
}

// A Store is a service's local database: a cache of its inbox and journal.
type Store interface {
	Reader

	// Acquire takes a partition over, whoever holds it: it waits for a commit in flight or fences it, issues a new epoch
	// and nonce, and binds the store to the topics' identity (not to their limits) at first use. From then on every
	// earlier lease is fenced. If several things differ from what it is bound to, the first of name ([ErrIdentity]),
	// [ErrCluster], [ErrRecreated] and [ErrPartitions] is returned.
	//
	// A store that went back (a backup was restored, a standby that lags took over) takes no transaction until the next
	// Acquire, of whatever partition. That one fences the leases of all partitions, says of all that they were Copied, and
	// that none is Ready: what some of them had decided, and their journals have, the ledger does not know.
	Acquire(ctx context.Context, a Assignment) (Lease, error)

	// Begin starts the core transaction under a lease. One per store at a time where the engine has one writer.
	Begin(ctx context.Context, l Lease) (Tx, error)

	// Ready notes that the partition holds all that its journal had, and returns the partitions of which that is not
	// noted since the store was made or reset, in order. While there are any, the ledger has gaps: nobody may decide.
	Ready(ctx context.Context, l Lease) (waiting []int32, err error)

	// Attempt notes durably that the lease's owner is about to handle the message at an inbox offset, and returns how many
	// owners have died since they noted that of the same offset, with none of another in between. In a [Shared] store
	// those are dead that are no members any more, else all but the one that asks. It sets the lease's Careful.
	Attempt(ctx context.Context, l Lease, offset, careful int64) (died int64, err error)

	// Release gives the lease back: the partition is nobody's, and its end was a clean one. The lease is fenced from
	// then on.
	Release(ctx context.Context, l Lease) error

	// Unlogged returns up to max kept records after decision n, in order, at least one if there is one, logged or not;
	// the bytes of one answer are bounded by the driver. A joint store keeps none.
	Unlogged(ctx context.Context, partition int32, after int64, max int) ([]JournalRecord, error)

	// Logged notes how far the journal was read back; it never goes back. Records are kept for a while after it.
	Logged(ctx context.Context, l Lease, to Logged) error

	// Reset empties ledger, states, parked messages, counts and the projections' tables of all partitions, as they are
	// one, and sets every progress to zero but for the incarnation: all are about to be folded again from their
	// journals. The leases of the other partitions are fenced, and none is Ready. Kept records stay.
	Reset(ctx context.Context, l Lease) error

	// Close releases what the store holds.
	Close() error
}

// A Tx is the core transaction. It is not safe for concurrent use, and ends with Commit or Rollback; Rollback after
// either does nothing.
type Tx interface {
	// Write writes a batch, once. It may queue; its error may come later, from Advance or Commit. A ledger key that is
	// settled already, and not as parked in the same partition, is an error, also where another partition settled it after the look-up: the
	// caller acquires anew after any.
	Write(ctx context.Context, b *Batch) error

	// SQL returns the projections' side of the transaction.
	SQL() deja.Tx

	// Advance moves the progress on, and comes last. It succeeds only if epoch and nonce are the lease's, position,
	// number and chain are from's, and this is still the transaction that Begin started: an engine may have rolled
	// it back by itself. Else ErrFenced, here or from Commit.
	Advance(ctx context.Context, from, to Progress) error

	// Commit makes it durable; without a successful Advance it fails. After an error other than ErrFenced it is unknown whether it did: the caller must
	// acquire anew to learn it.
	Commit(ctx context.Context) error

	// Rollback gives everything up.
	Rollback(ctx context.Context) error
}

// A Joint store commits its records into the log's own journal: what is committed is logged.
type Joint interface {
	Joint(Log) bool
}

// An Importer is a log that takes records with offset and time as they were elsewhere: a replay's copy of the past.
type Importer interface {
	// CreateTopic makes a topic of so many partitions; one that is there must have as many.
	CreateTopic(ctx context.Context, topic string, partitions int32) error
	// Import appends records to a topic; offsets must rise in each partition.
	Import(ctx context.Context, topic string, rs []Record) error
}

// A Member is a process that works on a [Shared] store.
type Member struct {
	ID      deja.ID
	Fold    string    // the fold version of its build
	Started time.Time // when it joined; the store's to give, UTC, microseconds
}

// A Crew is who works on a store, and on what.
type Crew struct {
	Members []Member // those alive, in order of IDs
	Leases  []Lease  // as [Reader.Leases] returns them
}

// A Shared store is one that several processes may work on, each on partitions of its own. Who holds a lease is a matter
// of liveness, judged by the store's clock; epoch and nonce alone keep workers apart.
type Shared interface {
	// Beat joins a member, or renews it, for a time to live, and with it the leases that it holds: also one that had run
	// out, if nobody took it. A member that had run out keeps its Started.
	Beat(ctx context.Context, m Member, ttl time.Duration) (Crew, error)
	// Leave ends a membership. Leases that it still holds are nobody's then, but not released: they are not fenced, and
	// their end was not a clean one.
	Leave(ctx context.Context, member deja.ID) error
}

// A Grouper is a log that shares the partitions of a topic out among the processes that ask, as Kafka's consumer groups
// do.
type Grouper interface {
	// Join joins a group until ctx ends, and sends this process's partitions each time they change, in order; none after
	// the channel is closed. The error of a membership that ended by itself comes from the log's next call of Join.
	Join(ctx context.Context, group, topic string) (<-chan []int32, error)
}

// Cursors are kept by a log for those who read it and work on no store: each is where a reader goes on.
type Cursors interface {
	// Cursor returns a reader's offset in a partition of a topic; 0 if it was never set.
	Cursor(ctx context.Context, reader, topic string, partition int32) (int64, error)
	// SetCursor sets it. It may go back, where two readers of one name are at work.
	SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error
}

// An Outbox is a store in which others have put messages, in transactions of their own, that are to go into an inbox.
type Outbox interface {
	// Outgoing returns up to max of the messages in order, at least one; while there are none it waits until ctx ends, and
	// then returns ctx's error.
	Outgoing(ctx context.Context, max int) ([]Outgoing, error)
	// Sent removes messages that are in the inbox, durably.
	Sent(ctx context.Context, ids []int64) error
}

// An Outgoing message waits in an [Outbox].
type Outgoing struct {
	ID     int64
	Topic  string
	Record Record // Partition is not set yet
}
