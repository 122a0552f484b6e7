// Package testenv tells tests where the servers are that they need: a broker of Apache Kafka and a PostgreSQL. It reads
// addresses from the environment and starts nothing; scripts/services starts servers and prints the addresses.
//
// A test that asks for a server that is not there is skipped, so go test ./... passes on a machine without any. Where
// CI=true it fails instead: there, nothing may be left out unseen.
package testenv

import (
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"
)

// The variables that scripts/services up prints.
const (
	KafkaVariable    = "DEJA_TEST_KAFKA"    // host:port, several separated by commas
	PostgresVariable = "DEJA_TEST_POSTGRES" // postgres://user:password@host:port/database
)

const hint = "start it with: export $(scripts/services up)"

// Kafka returns the addresses of the brokers to test against, at least one. Topics belong to all who test there: name
// them with [Unique].
func Kafka(t testing.TB) []string {
	t.Helper()
	var brokers []string
	for address := range strings.SplitSeq(os.Getenv(KafkaVariable), ",") {
		if address = strings.TrimSpace(address); address != "" {
			brokers = append(brokers, address)
		}
	}
	if len(brokers) == 0 {
		missing(t, KafkaVariable, "Kafka")
	}
	return brokers
}

// Postgres returns the DSN of the database to test in, as a URL. The role may create schemas and roles. The database
// belongs to all who test there: work in a schema named with [Unique].
func Postgres(t testing.TB) string {
	t.Helper()
	dsn := strings.TrimSpace(os.Getenv(PostgresVariable))
	if dsn == "" {
		missing(t, PostgresVariable, "PostgreSQL")
	} else if u, err := url.Parse(dsn); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		t.Fatalf("%s is no URL postgres://user:password@host:port/database", PostgresVariable) // it may hold a password: not printed
	}
	return dsn
}

// With returns an address with one parameter more.
func With(address, name, value string) string {
	sep := "?"
	if strings.Contains(address, "?") {
		sep = "&"
	}
	return address + sep + name + "=" + url.QueryEscape(value)
}

// missing ends the test for want of a server.
func missing(t testing.TB, variable, server string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("no %s: %s is not set, and CI=true leaves no test out; %s", server, variable, hint)
	}
	t.Skipf("NOT TESTED, no %s: %s is not set; %s", server, variable, hint)
}

// Unique returns a name that nobody else uses on the same servers, now or later: the prefix, an underscore and letters
// and digits in lower case. It is fit for topics, groups, schemas and roles if the prefix is, and 27 bytes longer.
func Unique(prefix string) string {
	return prefix + "_" + strings.ToLower(rand.Text())
}
