package engine

// MaxPerforming is how many effects of one type a partition has in memory while tests run: they need not send thousands.
const MaxPerforming = 32

// KeepFewEffects has it be so, before anything runs.
func KeepFewEffects() { maxPerforming = MaxPerforming }
