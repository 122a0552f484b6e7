package place

import "testing"

// The hashes are those of Kafka's own unit test (UtilsTest.testMurmur2).
func TestMurmur2IsKafkas(t *testing.T) {
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPartitionIsInRange(t *testing.T) {
	for _, key := range []string{"", "a", "21", "foobar", "576"} {
		for n := int32(1); n < 20; n++ {
			if p := Partition(key, n); p < 0 || p >= n {
				t.Errorf("Partition(%q, %d) = %d", key, n, p)
			}
		}
	}
}
