// Package deja is the domain API of an idempotent event-sourcing framework: a service that never applies a
// message twice, never loses one, and can be rewound to any moment of its past.
//
// A service is a pure value, a [Service]: its aggregates, projections and upcasters. An [Aggregate] is a name and
// a table of typed functions over a state; handling a message it records events, and its state changes only by
// applying them. Every message has an [ID]; the service that handles it checks the ID, changes its state and
// records its decision in one local transaction, so a message takes effect once however often it is delivered.
//
// This package holds what users write services with, and ends there. Package
// [github.com/dejalog/deja/engine] runs a service, [github.com/dejalog/deja/sqlite] is the embedded log and store,
// [github.com/dejalog/deja/replay] rebuilds any moment of the past, and
// [github.com/dejalog/deja/dejatest] tests services without any of them.
package deja
