package history

import "slices"

// shrink leaves members of a set out as long as a test holds for what is left, and returns what is: minimal says that none of
// it can be left out. It begins with large parts, so that a few of many are found in few tests. The test holds for the whole set.
// Where it says that there are to be no more tests, the smallest set so far is returned.
func shrink(set []int, test func([]int) (holds, more bool, err error)) (left []int, minimal bool, err error) {
	left = set
	for size := (len(set) + 1) / 2; size > 0; {
		before := len(left)
		for end := len(left); end > 0; end = max(end-size, 0) { // what came last first: it is the least likely to matter
			without := slices.Concat(left[:max(end-size, 0)], left[end:])
			holds, more, err := test(without)
			if err != nil || !more {
				return left, false, err
			}
			if holds {
				left = without
			}
		}
		if size > 1 {
			size = (size + 1) / 2
		} else if len(left) == before {
			break
		}
	}
	return left, true, nil
}
