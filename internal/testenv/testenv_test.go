package testenv

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// recorder is a test that notes how it ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// record runs f as a test of its own.
func record(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestAMissingServerSkipsAndFailsInCI(t *testing.T) {
	servers := map[string]func(testing.TB){
		KafkaVariable:    func(t testing.TB) { Kafka(t) },
		PostgresVariable: func(t testing.TB) { Postgres(t) },
	}
	for variable, ask := range servers {
		for _, empty := range []string{"", " "} {
			t.Setenv(variable, empty)

			t.Setenv("CI", "")
			r := record(t, ask)
			if r.failed != "" || !strings.Contains(r.skipped, variable) || !strings.Contains(r.skipped, "scripts/services up") {
				t.Errorf("without CI: skipped with %q, failed with %q", r.skipped, r.failed)
			}

			t.Setenv("CI", "true")
			r = record(t, ask)
			if r.skipped != "" || !strings.Contains(r.failed, variable) || !strings.Contains(r.failed, "scripts/services up") {
				t.Errorf("with CI: skipped with %q, failed with %q", r.skipped, r.failed)
			}
		}
	}
}

func TestAddressesComeFromTheEnvironment(t *testing.T) {
	t.Setenv(KafkaVariable, "127.0.0.1:9092, 127.0.0.1:9093,")
	if got, want := Kafka(t), []string{"127.0.0.1:9092", "127.0.0.1:9093"}; !slices.Equal(got, want) {
		t.Errorf("Kafka: %q, want %q", got, want)
	}
	const dsn = "postgres://deja:secret@127.0.0.1:5432/deja"
	t.Setenv(PostgresVariable, dsn)
	if got := Postgres(t); got != dsn {
		t.Errorf("Postgres: %q, want %q", got, dsn)
	}
	t.Setenv(PostgresVariable, "user=deja password=secret")
	r := record(t, func(t testing.TB) { Postgres(t) })
	if r.failed == "" || strings.Contains(r.failed, "secret") {
		t.Errorf("a DSN that is no URL: failed with %q", r.failed)
	}
}

func TestUniqueNamesAreFitForTopicsAndSchemas(t *testing.T) {
	fit := regexp.MustCompile(`^bank_[a-z0-9]{26}$`)
	a, b := Unique("bank"), Unique("bank")
	if a == b || !fit.MatchString(a) || !fit.MatchString(b) {
		t.Errorf("names %q and %q", a, b)
	}
}

func TestAParameterIsAdded(t *testing.T) {
	for address, want := range map[string]string{
		"postgres://h/d":             "postgres://h/d?schema=a+b",
		"postgres://h/d?sslmode=off": "postgres://h/d?sslmode=off&schema=a+b",
	} {
		if got := With(address, "schema", "a b"); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
