// Package postgres keeps a service's store in a schema of a PostgreSQL database, and its log too for those without
// Kafka. It knows nothing of what the bytes of a record mean: see [github.com/dejalog/deja/driver].
//
// Any number of processes may work on one schema: leases with an epoch and a nonce from the database keep them apart, and
// its clock alone judges who is alive. The roles, settings and time-outs that this needs are in docs/postgres.md.
//
// A connection must be a session of its own: poolers that hand out connections per transaction do not work, since
// settings and LISTEN belong to the session.
package postgres
