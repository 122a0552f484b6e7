package archive

import (
	"context"
	"fmt"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// Verify reads every file of the archive, and checks it against its hash; and that the journal's decisions follow from
// each other, across files. The error wraps [ErrDamaged] and names the file, or says where the chain breaks. Progress may
// be nil.
func (l *Log) Verify(ctx context.Context, progress func(done, total int64)) error {
	var done, total int64
	for _, p := range l.Parts() {
		total += p.Records
	}
	read := func(n int64) {
		if done += n; progress != nil {
			progress(done, total)
		}
	}
	for _, t := range l.topics {
		for _, p := range t.partitions {
			var at driver.Logged
			for i, s := range p.segments {
				if err := s.each(ctx, nil); err != nil {
					return err
				}
				read(s.count)
				if t.Name != wire.Journal(l.manifest.Service) {
					continue
				}
				if s.head.Mark == nil || i > 0 && *s.head.Mark != *markOf(at) {
					return s.damaged("it does not say where the chain of the file before it ended")
				}
				var err error
				if at, err = s.follow(ctx, l, l.manifest.Service); err != nil {
					return fmt.Errorf("%s: %w", s.path, err)
				}
			}
		}
	}
	return nil
}
