package deja

import "encoding/json"

// A Codec turns payloads into bytes and back. It must be deterministic and safe for concurrent use. States are not
// its business: they are always kept as JSON, the one form that hashes, differences and queries share.
type Codec interface {
	// ContentType names the form, such as application/json. It is recorded with every payload.
	ContentType() string
	// Append appends v's encoding to dst.
	Append(dst []byte, v any) ([]byte, error)
	// Unmarshal decodes data into v, a pointer to a zero payload. It must not keep data.
	Unmarshal(data []byte, v any) error
}

// JSON returns the default codec: encoding/json, content type application/json.
func JSON() Codec { return jsonCodec{} }

type jsonCodec struct{}

func (jsonCodec) ContentType() string { return "application/json" }

func (jsonCodec) Append(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if dst == nil {
		return b, err
	}
	return append(dst, b...), err
}

func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }
