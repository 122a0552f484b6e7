// Package kafka is a log on Apache Kafka. It implements [github.com/dejalog/deja/driver].Log, Grouper and Cursors with
// the client library franz-go, and ends there: what records mean, and who may work on which partition, it does not know.
//
// # What it promises
//
// A topic is what it was when it was first asked for: the cluster's id, the topic's id (KIP-516) and the number of
// partitions are bound to its name for the Log's life. Records are read and written under that id, so that neither a
// topic that was created anew nor another cluster at the same addresses can answer. Every call on a topic that was
// deleted or recreated is driver.ErrRecreated, on one that got partitions driver.ErrPartitions, on one of another cluster
// driver.ErrCluster. A Fetch that waits learns it within seconds. An offset before the first record is
// driver.ErrTrimmed, one above the end driver.ErrBeyondEnd; so is one that was read up to and then truncated away. There is
// no way on from the first three but another Log: what the service is bound to is gone.
//
// Append keeps the order of each partition, also across failures: it says how. An error of an append means maybe.
//
// Lost connections and brokers that say so are tried again until the caller's ctx ends; its error then comes with the
// last cause. Other errors of the brokers are returned as they are, wrapped.
//
// # Settings
//
// Topics are created by [Log.CreateTopics] only, never by their use. [Log.Check] looks for settings that endanger what is
// promised. Brokers must be Kafka 3.1 or later; from 4.1 on a topic's id is in produce requests too, before that the
// topic is looked at once more after each.
//
// The default compression is Snappy: of records like a journal's, a third of which is hashes, it takes half of what goes
// over the network and onto disks, for less than half a microsecond of the client's processor time a record, there and
// back, and little of the brokers'. LZ4 saves no more for four times as much, Zstd little more for
// ten times. Where brokers, database and service share few processors and a fast disk, None is the cheapest.
//
// # Sources
//
//   - the protocol and the format of record batches: https://kafka.apache.org/protocol and
//     https://kafka.apache.org/documentation/#messageformat
//   - topic ids: KIP-516; fencing of old leaders and truncation: KIP-320, KIP-595; the group protocol: KIP-848
//   - franz-go: https://pkg.go.dev/github.com/twmb/franz-go/pkg/kgo
package kafka
