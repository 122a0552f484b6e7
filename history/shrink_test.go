package history

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// What is left passes the test, and nothing of it can be left out.
func TestShrinkLeavesNothingOutThatMatters(t *testing.T) {
	seed := seedOf(t)
	for run := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed+run, 0))
		set := make([]int, rng.IntN(60))
		for i := range set {
			set[i] = i
		}
		// A set passes if it has all of some members, and for each of some pairs both or none, as a cause and its effect.
		var must []int
		for range rng.IntN(4) {
			if len(set) > 0 {
				must = append(must, rng.IntN(len(set)))
			}
		}
		together := func(s []int) bool {
			for _, m := range must {
				if slices.Contains(s, m) != slices.Contains(s, (m+7)%len(set)) {
					return false
				}
			}
			return true
		}
		passes := func(s []int) bool {
			for _, m := range must {
				if !slices.Contains(s, m) {
					return false
				}
			}
			return together(s)
		}
		left, minimal, err := shrink(set, nil, func(s []int) (bool, bool, error) {
			if !slices.IsSorted(s) {
				t.Fatalf("seed %d: the order changed: %v", seed+run, s)
			}
			return passes(s), true, nil
		})
		if err != nil || !minimal || !passes(left) {
			t.Fatalf("seed %d: left %v of %d, minimal %v, %v; needed %v", seed+run, left, len(set), minimal, err, must)
		}
		for i := range left {
			if without := slices.Concat(left[:i], left[i+1:]); passes(without) {
				t.Fatalf("seed %d: left %v, but %v would do", seed+run, left, without)
			}
		}
	}
}

// A few of many are found in few tests, and an end to the tests leaves what passes.
func TestShrinkEndsEarly(t *testing.T) {
	set := make([]int, 10_000)
	for i := range set {
		set[i] = i
	}
	tests := 0
	passes := func(s []int) bool {
		return slices.Contains(s, 17) && slices.Contains(s, 5000) && slices.Contains(s, 9999)
	}
	left, minimal, err := shrink(set, nil, func(s []int) (bool, bool, error) { tests++; return passes(s), true, nil })
	if err != nil || !minimal || !slices.Equal(left, []int{17, 5000, 9999}) || tests > 200 {
		t.Errorf("left %d after %d tests, minimal %v, %v", len(left), tests, minimal, err)
	}
	for most := range tests {
		n := 0
		left, minimal, err := shrink(set, nil, func(s []int) (bool, bool, error) { n++; return passes(s), n <= most, nil })
		if err != nil || minimal || !passes(left) {
			t.Fatalf("ended after %d tests: left %d, minimal %v, %v", most, len(left), minimal, err)
		}
	}
}
