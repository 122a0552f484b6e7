package trail

import (
	"container/list"
	"fmt"
	"sync"
)

// cache keeps what was read last, up to a number of bytes. It is safe for concurrent use.
type cache struct {
	mu    sync.Mutex
	limit int
	bytes int
	items map[cacheKey]*list.Element
	order *list.List // the last used first
}

// cacheKey is where something begins: a segment's stamp, and a place in it; -1 for its directory.
type cacheKey struct {
	stamp uint64
	at    int64
}

type sized interface{ size() int }

type cached struct {
	key  cacheKey
	item sized
}

func newCache(limit int) *cache {
	return &cache{limit: limit, items: map[cacheKey]*list.Element{}, order: list.New()}
}

// load returns what is cached under a key, or reads it. Two that ask for one thing at once may both read it.
func load[T sized](c *cache, key cacheKey, read func() (T, error)) (T, error) {
	if item, ok := c.get(key); ok {
		t, ok := item.(T)
		if !ok {
			return t, fmt.Errorf("%w: two sections begin at one place", ErrDamaged)
		}
		return t, nil
	}
	t, err := read()
	if err == nil {
		c.put(key, t)
	}
	return t, err
}

func (c *cache) get(key cacheKey) (sized, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.items[key]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*cached).item, true
}

func (c *cache) put(key cacheKey, item sized) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok {
		return
	}
	c.items[key] = c.order.PushFront(&cached{key, item})
	for c.bytes += item.size(); c.bytes > c.limit && c.order.Len() > 1; {
		el := c.order.Back()
		old := c.order.Remove(el).(*cached)
		delete(c.items, old.key)
		c.bytes -= old.item.size()
	}
}
