// Resume tokens: what zfs get receive_resume_token shows and zfs send -t takes.

package zfsfake

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// token is what a resume token says. The text of a real one is a packed nvlist; the fake's has the same outer form,
// 1-<checksum>-<length>-<hexadecimal of zlib>, with another packing inside.
type token struct {
	FromGUID     uint64 `json:",omitempty"`
	Object       uint64
	Offset       uint64
	Bytes        uint64
	ToGUID       uint64
	ToName       string
	LargeBlockOK bool `json:",omitempty"`
	EmbedOK      bool `json:",omitempty"`
	CompressOK   bool `json:",omitempty"`
	RawOK        bool `json:",omitempty"`

	saved bool // made by zfs send -S for itself
}

func (t token) String() string {
	packed, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and numbers only
	}
	var compressed bytes.Buffer
	w := zlib.NewWriter(&compressed)
	_, _ = w.Write(packed) // into memory
	_ = w.Close()
	return fmt.Sprintf("1-%x-%x-%x", crc32.ChecksumIEEE(compressed.Bytes()), len(packed), compressed.Bytes())
}

// parseToken answers the token, or what libzfs says is wrong with it.
func parseToken(text string) (token, string) {
	parts := strings.Split(text, "-")
	if len(parts) < 4 {
		return token{}, "resume token is corrupt (invalid format)"
	}
	version, err := strconv.ParseUint(parts[0], 10, 32)
	sum, err2 := strconv.ParseUint(parts[1], 16, 64)
	length, err3 := strconv.ParseUint(parts[2], 16, 64)
	if err != nil || err2 != nil || err3 != nil {
		return token{}, "resume token is corrupt (invalid format)"
	}
	if version != 1 {
		return token{}, fmt.Sprintf("resume token is corrupt (invalid version %d)", version)
	}
	digits := parts[len(parts)-1]
	compressed, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return token{}, "resume token is corrupt (payload is not hex-encoded)"
	}
	if uint64(crc32.ChecksumIEEE(compressed)) != sum {
		return token{}, "resume token is corrupt (incorrect checksum)"
	}
	const tooLong = 1 << 20
	r, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return token{}, "resume token is corrupt (decompression failed)"
	}
	packed, err := io.ReadAll(io.LimitReader(r, tooLong))
	if err != nil || uint64(len(packed)) != length {
		return token{}, "resume token is corrupt (decompression failed)"
	}
	var t token
	if json.Unmarshal(packed, &t) != nil {
		return token{}, "resume token is corrupt (nvlist_unpack failed)"
	}
	return t, ""
}

// print is nvlist_print.
func (t token) print() string {
	from := ""
	if t.FromGUID != 0 {
		from = fmt.Sprintf("\tfromguid = %#x\n", t.FromGUID)
	}
	position := fmt.Sprintf("\tobject = %#x\n\toffset = %#x\n\tbytes = %#x\n", t.Object, t.Offset, t.Bytes)
	guid := fmt.Sprintf("\ttoguid = %#x\n", t.ToGUID)
	name := fmt.Sprintf("\ttoname = %s\n", t.ToName)
	flags := ""
	for _, flag := range []struct {
		name string
		set  bool
	}{{"largeblockok", t.LargeBlockOK}, {"embedok", t.EmbedOK}, {"compressok", t.CompressOK}, {"rawok", t.RawOK}} {
		if flag.set {
			flags += fmt.Sprintf("\t%s = 1\n", flag.name)
		}
	}
	const heading = "resume token contents:\nnvlist version: 0\n"
	if t.saved { // position and name are replaced, and what is replaced goes to the end
		return heading + from + guid + flags + position + name
	}
	return heading + from + position + guid + name + flags
}

// resumeToken answers the token of d's running or partial receive, when it is resumable.
func (d *dataset) resumeToken() (string, bool) {
	r := d.receive
	if r == nil || !r.resumable {
		return "", false
	}
	return token{
		FromGUID: r.header.FromGUID, Object: r.object, Offset: r.offset, Bytes: r.bytes, ToGUID: r.header.ToGUID,
		ToName: r.header.ToName, LargeBlockOK: r.header.LargeBlocks, EmbedOK: r.header.Embedded,
		CompressOK: r.header.Compressed, RawOK: r.header.Raw,
	}.String(), true
}
