package main

import "encoding/binary"

// Messages of protocol buffers by their fields' numbers, as much of it as CRI's take here. Debian has no Go library of CRI.

// field is a field of a message, encoded.
type field []byte

// reply is an encoded message.
type reply []byte

const (
	varintType = 0
	bytesType  = 2
)

func message(fields ...field) []byte {
	var encoded []byte
	for _, f := range fields {
		encoded = append(encoded, f...)
	}
	return encoded
}

func varint(value uint64) []byte {
	buffer := make([]byte, binary.MaxVarintLen64)
	return buffer[:binary.PutUvarint(buffer, value)]
}

func number(id int, value uint64) field {
	return append(varint(uint64(id)<<3|varintType), varint(value)...)
}

func text(id int, value string) field {
	encoded := append(varint(uint64(id)<<3|bytesType), varint(uint64(len(value)))...)
	return append(encoded, value...)
}

func nested(id int, fields ...field) field { return text(id, string(message(fields...))) }

// each gives every field of a message, numbers and bytes, until there is none or what follows is no field.
func (r reply) each(take func(id int, value uint64, data []byte)) {
	for len(r) > 0 {
		key, count := binary.Uvarint(r)
		if count <= 0 {
			return
		}
		r = r[count:]
		value, count := binary.Uvarint(r)
		if count <= 0 {
			return
		}
		switch key & 7 {
		case varintType:
			take(int(key>>3), value, nil)
			r = r[count:]
		case bytesType:
			if value > uint64(len(r)-count) {
				return
			}
			end := count + int(value)
			take(int(key>>3), 0, r[count:end])
			r = r[end:]
		default:
			return
		}
	}
}

func (r reply) all(wanted int) (found [][]byte) {
	r.each(func(id int, _ uint64, data []byte) {
		if id == wanted && data != nil {
			found = append(found, data)
		}
	})
	return found
}

func (r reply) nested(wanted int) reply {
	if all := r.all(wanted); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

func (r reply) text(wanted int) string { return string(r.nested(wanted)) }

func (r reply) number(wanted int) (found uint64) {
	r.each(func(id int, value uint64, data []byte) {
		if id == wanted && data == nil {
			found = value
		}
	})
	return found
}

// raw is a codec for messages that are encoded already.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return v.([]byte), nil }

func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }
