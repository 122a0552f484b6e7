package testenv

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs a package's tests from its TestMain, and fails if goroutines of theirs do not end: they have half a minute, as
// those of a connection that was closed may take their time on a machine that is busy.
func Main(m *testing.M) { goleak.VerifyTestMain(patient{m}) }

type patient struct{ *testing.M }

// Run implements [goleak.TestingM].
func (p patient) Run() int {
	code := p.M.Run()
	for end := time.Now().Add(30 * time.Second); goleak.Find() != nil && time.Now().Before(end); { // which takes a while itself
	}
	return code
}
