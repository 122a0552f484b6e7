// Package dejatest tests services of package [github.com/dejalog/deja] without a log, a store or a clock of their own,
// and ends there: it executes no SQL, calls no provider but those that the test gives it, and starts no goroutine.
//
// A [Case] tests an aggregate: what is given, what happens, what then must have come of it. A [World] runs whole
// services that send each other commands, delivers everything again, crashes them at every call of log and stores, and looks
// for the order of steps that breaks a saga. Both end the test where handlers are not what a service relies on: the same each
// time, and a function of what they are given.
//
//	func TestATillGivesOutNoMoreThanItHas(t *testing.T) {
//		dejatest.New(t, till(), "front").
//			Given(Added{Amount: 100}).
//			When(Take{Amount: 101}).Rejected(ErrEmpty).
//			When(Take{Amount: 60}).Recorded(Taken{Amount: 60}).
//			State(Till{Balance: 40})
//	}
//
//	func TestATillCountsEveryCoinOnce(t *testing.T) {
//		w := dejatest.NewWorld(t, shop())
//		w.Must(deja.Request{Key: "front", Command: Put{Amount: 100}})
//		w.Must(deja.Request{Key: "front", Command: Take{Amount: 60}})
//		w.RedeliverAll()
//		w.CrashAtEveryWrite()
//	}
//
// docs/testing-sagas.md in the module shows worlds of several services.
package dejatest
