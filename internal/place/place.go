// Package place puts keys into partitions, the same way for every log.
package place

import "encoding/binary"

// Partition returns the partition of a key among n: murmur2 as Kafka's Java client computes it, without sign, modulo
// n. Source: org.apache.kafka.common.utils.Utils.murmur2, after Austin Appleby's MurmurHash2.
func Partition(key string, n int32) int32 {
	if n <= 1 {
		return 0
	}
	return int32(murmur2([]byte(key))&0x7fffffff) % n
}

func murmur2(data []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}
