package history

import "slices"

// shrink leaves members of a set out as long as a test holds for what is left, and returns what is: minimal says that none of
// it can be left out. It begins with large parts, so that a few of many are found in few tests: as many as there are such members,
// times the logarithm of all, and a half of those small. The test holds for the whole set. Where it says that there are to be no
// more tests, the smallest set so far is returned. closed brings a part into a form that can be tested: it takes more members
// out, or puts some of those left back in; nil: any part can be.
func shrink(set []int, closed func(part, left []int) []int, test func([]int) (holds, more bool, err error)) (left []int, minimal bool, err error) {
	left = set
	for size := (len(set) + 1) / 2; size > 0; {
		before := len(left)
		for end := len(left); end > 0; { // what came last first: it is the least likely to matter
			from := max(end-size, 0)
			without := slices.Concat(left[:from], left[end:])
			if closed != nil {
				without = closed(without, left)
			}
			end = from
			if len(without) == len(left) {
				continue
			}
			holds, more, err := test(without)
			if err != nil || !more {
				return left, false, err
			}
			if holds {
				left, end = without, min(end, len(without))
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
