package drivertest

import (
	"github.com/dejalog/deja/driver"
)

var cursorCases = []testCase{
	{
		"cursors", "a cursor is a reader's own in each partition of each topic, 0 until it is set, and may go back",
		needs{log: true, cursors: true},
		cursors,
	},
	{
		"cursors after reopening", "a cursor that was set is there after the process has died",
		needs{log: true, cursors: true, reopen: true},
		cursorsReopened,
	},
}

// cursorOf names a cursor.
type cursorOf struct {
	reader, topic string
	partition     int32
}

// holdsCursors fails the case unless the cursors are where the model has them.
func (b *bench) holdsCursors(m map[cursorOf]int64) {
	b.Helper()
	for _, reader := range []string{"archive", "publish", "Archive"} {
		for _, topic := range []string{b.inbox.Name, b.journal.Name} {
			for p := range min(b.inbox.Partitions, 2) {
				got, err := b.log.(driver.Cursors).Cursor(b.ctx, reader, topic, p)
				b.must(err)
				if want := m[cursorOf{reader, topic, p}]; got != want {
					b.Fatalf("the cursor of %s in %s:%d is at %d, want %d", reader, topic, p, got, want)
				}
			}
		}
	}
}

func (b *bench) setCursor(m map[cursorOf]int64, c cursorOf, offset int64) {
	b.Helper()
	b.must(b.log.(driver.Cursors).SetCursor(b.ctx, c.reader, c.topic, c.partition, offset))
	m[c] = offset
}

func cursors(b *bench) {
	m := map[cursorOf]int64{}
	b.append(numbered(0, 9))
	b.holdsCursors(m)
	last := min(b.inbox.Partitions, 2) - 1
	for _, offset := range []int64{3, 9, 9, 4, 0, 7} {
		b.setCursor(m, cursorOf{"archive", b.inbox.Name, 0}, offset)
		b.holdsCursors(m)
		b.setCursor(m, cursorOf{"publish", b.journal.Name, last}, offset+1)
		b.holdsCursors(m)
	}
	b.setCursor(m, cursorOf{"publish", b.inbox.Name, last}, 1)
	b.holdsCursors(m)
}

func cursorsReopened(b *bench) {
	m := map[cursorOf]int64{}
	b.append(numbered(0, 3))
	b.setCursor(m, cursorOf{"archive", b.inbox.Name, 0}, 2)
	b.setCursor(m, cursorOf{"publish", b.inbox.Name, 0}, 3)
	b.reopen()
	b.holdsCursors(m)
	b.setCursor(m, cursorOf{"archive", b.inbox.Name, 0}, 1)
	b.holdsCursors(m)
}
