package talk

// Frame returns a frame.
func Frame(kind byte, body []byte) []byte {
	return appendFrame(nil, kind, func(dst []byte) []byte { return append(dst, body...) })
}

// Reread writes a message and reads it.
func Reread(m Message) (Message, []byte, error) {
	raw := m.append(nil)
	m, err := parseMessage(raw)
	return m, raw, err
}
