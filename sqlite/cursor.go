package sqlite

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
)

// cursorsTable holds where readers of the log go on. It is made with the first cursor.
const cursorsTable = `CREATE TABLE IF NOT EXISTS deja_cursors (
	reader TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
	PRIMARY KEY (reader, topic, partition)
) STRICT, WITHOUT ROWID`

const setCursor = `INSERT INTO deja_cursors (reader, topic, partition, offset) VALUES (?, ?, ?, ?)
	ON CONFLICT (reader, topic, partition) DO UPDATE SET offset = excluded.offset`

// Cursor returns a reader's offset in a partition of a topic; 0 if it was never set.
func (l *log) Cursor(ctx context.Context, reader, topic string, partition int32) (offset int64, err error) {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return 0, err
	}
	if _, err := t.partition(partition); err != nil {
		return 0, err
	}
	err = l.db.read(ctx, func(c *sqlite.Conn) error {
		there, err := exists(c, "deja_cursors")
		if err != nil || !there {
			return err
		}
		return query(c, "SELECT offset FROM deja_cursors WHERE reader = ? AND topic = ? AND partition = ?", func(st *sqlite.Stmt) error {
			offset = st.ColumnInt64(0)
			return nil
		}, reader, topic, partition)
	})
	return offset, err
}

// SetCursor sets a reader's offset in a partition of a topic.
func (l *log) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	if l.db.conn == nil {
		return fmt.Errorf("set the cursor of %s: %s: %w", reader, l.db.path, ErrReadOnly)
	}
	t, err := l.topic(ctx, topic)
	if err != nil {
		return err
	}
	if _, err := t.partition(partition); err != nil {
		return err
	}
	return l.db.write(ctx, func(c *sqlite.Conn) error {
		if err := exec(c, cursorsTable); err != nil {
			return err
		}
		return exec(c, setCursor, reader, topic, partition, offset)
	})
}
