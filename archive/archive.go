// Package archive keeps a service's inbox and journal as files, so that the past outlives the topics' retention. [Pull]
// takes what is new in a log into sealed files, each of which names the hash of the one before it; [Open] makes a log of
// them again, which is read like any other and takes nothing. docs/formats.md has the bytes.
package archive

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

var (
	// ErrDamaged is returned for an archive of which a file is missing, truncated or altered. The error names it.
	ErrDamaged = errors.New("the archive is damaged")

	// ErrNewer is returned for an archive in a format of a later release.
	ErrNewer = errors.New("the archive has a newer format")
)

const (
	format       = 1
	manifestName = "archive.json"
	lockName     = "archive.lock"
	suffix       = ".segment"
	partSuffix   = ".part" // of a file in the making
	fetchBytes   = 4 << 20 // bounds the values of one Fetch
)

// manifest says which log an archive is of.
type manifest struct {
	Format  int     `json:"format"`
	Service string  `json:"service"`
	Inbox   binding `json:"inbox"`
	Journal binding `json:"journal"`
}

// binding is a topic's identity.
type binding struct {
	Cluster    string `json:"cluster"`
	ID         string `json:"id"`
	Partitions int32  `json:"partitions"`
	MaxRecord  int    `json:"max_record"` // as it was when the archive was made: it may change
}

func bindingOf(t driver.Topic) binding { return binding{t.Cluster, t.ID, t.Partitions, t.MaxRecord} }

// same returns nil if a log's topic is the one that was archived.
func (b binding) same(t driver.Topic) error {
	switch {
	case b.Cluster != t.Cluster:
		return fmt.Errorf("%w: the archive is of %s in cluster %s, this is %s", driver.ErrCluster, t.Name, b.Cluster, t.Cluster)
	case b.ID != t.ID:
		return fmt.Errorf("%w: the archive is of %s with the id %s, this is %s", driver.ErrRecreated, t.Name, b.ID, t.ID)
	case b.Partitions != t.Partitions:
		return fmt.Errorf("%w: the archive is of %s with %d, this has %d", driver.ErrPartitions, t.Name, b.Partitions, t.Partitions)
	}
	return nil
}

// A Log is an archive as a log that can only be read. It is safe for concurrent use.
type Log struct {
	dir      string
	manifest manifest
	seal     []byte // the manifest's bytes
	topics   map[string]*topic
}

var _ driver.Log = (*Log)(nil)

type topic struct {
	driver.Topic
	dir        string
	partitions []*partition
}

// partition is a chain of files.
type partition struct {
	dir      string
	seal     [32]byte // what the first file follows from
	segments []*segment
}

// Is reports whether a directory holds an archive.
func Is(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, manifestName))
	return err == nil
}

// Open opens an archive. It reads how the files hang together; what is in a file is checked against its hash when it is
// first read. The error wraps [fs.ErrNotExist] where there is none, [ErrNewer] or [ErrDamaged].
func Open(dir string) (*Log, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, manifestName)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", dir, err)
	}
	l := &Log{dir: dir, seal: data}
	if err := json.Unmarshal(data, &l.manifest); err != nil || l.manifest.Format < 1 || l.manifest.Service == "" {
		return nil, fmt.Errorf("%w: %s is no archive's", ErrDamaged, path)
	}
	if l.manifest.Format > format {
		return nil, fmt.Errorf("%w: %s has version %d, this build reads %d", ErrNewer, path, l.manifest.Format, format)
	}
	l.topics = map[string]*topic{}
	for name, b := range l.bindings() {
		if l.topics[name], err = l.openTopic(name, b); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Log) bindings() map[string]binding {
	return map[string]binding{wire.Inbox(l.manifest.Service): l.manifest.Inbox, wire.Journal(l.manifest.Service): l.manifest.Journal}
}

func (l *Log) openTopic(name string, b binding) (*topic, error) {
	kind := strings.TrimPrefix(name, l.manifest.Service+".")
	t := &topic{
		Topic: driver.Topic{Name: name, Cluster: b.Cluster, ID: b.ID, Partitions: b.Partitions, MaxRecord: b.MaxRecord},
		dir:   filepath.Join(l.dir, kind),
	}
	for p := range b.Partitions {
		part := &partition{dir: filepath.Join(t.dir, strconv.Itoa(int(p))), seal: sealOf(l.seal, name, p)}
		if err := part.open(t, p); err != nil {
			return nil, err
		}
		t.partitions = append(t.partitions, part)
	}
	return t, nil
}

// sealOf is what the first file of a partition follows from: no archive's files can stand in for another's.
func sealOf(manifest []byte, topic string, partition int32) [32]byte {
	return sha256.Sum256(append(fmt.Appendf(nil, "deja/archive/1 %s %d\n", topic, partition), manifest...))
}

// open reads heads and ends of a partition's files, which must follow from each other.
func (p *partition) open(t *topic, number int32) error {
	names, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range names { // sorted, and the names are of one length
		if !strings.HasSuffix(entry.Name(), suffix) {
			continue
		}
		s, err := openSegment(filepath.Join(p.dir, entry.Name()))
		if err != nil {
			return err
		}
		if err := p.follows(s, t, number); err != nil {
			return err
		}
		p.segments = append(p.segments, s)
	}
	return nil
}

// follows checks that a file is the next one.
func (p *partition) follows(s *segment, t *topic, number int32) error {
	h := s.head
	if h.Topic != t.Name || h.Partition != number {
		return fmt.Errorf("%w: %s is of %s, partition %d", ErrDamaged, s.path, h.Topic, h.Partition)
	}
	if filepath.Base(s.path) != segmentName(h.First) {
		return fmt.Errorf("%w: %s begins with offset %d, as its name does not say", ErrDamaged, s.path, h.First)
	}
	previous, next := p.tail()
	if h.Previous != hexHash(previous) || len(p.segments) > 0 && h.First != next {
		return fmt.Errorf("%w: %s does not follow from the file before it, which is missing or altered", ErrDamaged, s.path)
	}
	return nil
}

// tail returns what the next file has to follow from, and the offset after the last record.
func (p *partition) tail() (hash [32]byte, end int64) {
	if len(p.segments) == 0 {
		return p.seal, 0
	}
	last := p.segments[len(p.segments)-1]
	return last.hash, last.end
}

func (p *partition) bounds() (first, end int64) {
	if len(p.segments) == 0 {
		return 0, 0
	}
	_, end = p.tail()
	return p.segments[0].head.First, end
}

// Service returns the service whose log was archived.
func (l *Log) Service() string { return l.manifest.Service }

// Topic implements [driver.Log]: it returns the identity of the topic that was archived.
func (l *Log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, ok := l.topics[name]
	if !ok {
		return driver.Topic{}, fmt.Errorf("topic %s: %w: the archive %s is of %s", name, driver.ErrNotFound, l.dir, l.manifest.Service)
	}
	return t.Topic, ctx.Err()
}

// Append implements [driver.Log]: an archive takes nothing.
func (l *Log) Append(_ context.Context, topic string, _ []driver.Record) ([]deja.Position, error) {
	return nil, fmt.Errorf("append to %s: %w: it is an archive", topic, driver.ErrUnusable)
}

// Fetch implements [driver.Log]. At the end it waits for ctx: what is pulled meanwhile is seen when the archive is opened
// anew.
func (l *Log) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	p, err := l.partition(from.Topic, from.Partition)
	if err != nil {
		return nil, err
	}
	first, end := p.bounds()
	switch {
	case from.Offset < first:
		return nil, fmt.Errorf("fetch %s: %w: the archive begins at %d", from, driver.ErrTrimmed, first)
	case from.Offset > end:
		return nil, fmt.Errorf("fetch %s: %w: the archive's end is %d", from, driver.ErrBeyondEnd, end)
	case from.Offset == end:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	i, found := slices.BinarySearchFunc(p.segments, from.Offset, func(s *segment, offset int64) int {
		return int(min(1, s.head.First-offset))
	})
	if !found {
		i--
	}
	return p.segments[i].fetch(ctx, from, max)
}

// Bounds implements [driver.Log].
func (l *Log) Bounds(_ context.Context, topic string, partition int32) (first, end int64, err error) {
	p, err := l.partition(topic, partition)
	if err != nil {
		return 0, 0, err
	}
	first, end = p.bounds()
	return first, end, nil
}

func (l *Log) partition(name string, number int32) (*partition, error) {
	t, ok := l.topics[name]
	if !ok {
		return nil, fmt.Errorf("topic %s: %w", name, driver.ErrNotFound)
	}
	if number < 0 || number >= t.Partitions {
		return nil, fmt.Errorf("topic %s has %d partitions, and no partition %d", name, t.Partitions, number)
	}
	return t.partitions[number], nil
}

// Close implements [driver.Log]. It does nothing: no file is held open.
func (l *Log) Close() error { return nil }

// A Part tells of one partition of a topic.
type Part struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"` // the offset that it begins with
	End       int64  `json:"end"`   // the offset after the last record
	Records   int64  `json:"records"`
	Files     int    `json:"files"`
	Bytes     int64  `json:"bytes"`
	Pulled    int64  `json:"pulled"` // records that were added just now
}

// Parts tells what an archive holds, the inbox first.
func (l *Log) Parts() []Part {
	var parts []Part
	for _, name := range []string{wire.Inbox(l.manifest.Service), wire.Journal(l.manifest.Service)} {
		for i, p := range l.topics[name].partitions {
			part := Part{Topic: name, Partition: int32(i), Files: len(p.segments)}
			part.First, part.End = p.bounds()
			for _, s := range p.segments {
				part.Records += s.count
				part.Bytes += s.size
			}
			parts = append(parts, part)
		}
	}
	return parts
}
