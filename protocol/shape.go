package protocol

import (
	"bytes"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// kmsg's decoders believe what a request says of itself: an array's count is allocated
// before its elements are read, and a count of tagged fields is looped over, up to 2^32
// times, even when the bytes have ended. So a request is measured before it is decoded,
// against its shape: which fields its version has, in what order, of which wire type.
//
// kmsg does not export shapes. They are found out by encoding: a request is filled with
// values, one field after the other is changed, and what changes in the encoding tells
// whether the version has the field and whether it is a tagged one. A test measures
// randomly filled requests of every key and version, so a shape that is wrong is noticed.

type kind uint8

const (
	kindFixed    kind = iota // wire bytes
	kindString               // length (i16 or compact), UTF-8
	kindNullable             // the same, may be null, a Go pointer
	kindBytes                // length (i32 or compact), bytes; aliases the frame
	kindArray                // count (i32 or compact), elements
	kindStruct               // fields, tags
	kindPointer              // i8: -1 for null; else a struct
)

// shape describes a value on the wire and in memory. Shapes are immutable once built.
type shape struct {
	kind   kind
	wire   int      // kindFixed: bytes on the wire
	mem    int64    // bytes that one such value takes in Go, without what it points to
	elem   *shape   // kindArray, kindPointer
	fields []*shape // kindStruct: in wire order
	tags   []tag    // kindStruct: the known tagged fields
}

type tag struct {
	num   uint32
	shape *shape
}

// taggedStructs are the fields of struct type that travel as tagged ones; they cannot be
// told apart by the length of the encoding.
var taggedStructs = map[reflect.Type]bool{
	reflect.TypeFor[kmsg.FetchRequestReplicaState](): true,
}

var shapes [kmsg.MaxKey + 1][maxVersions]atomic.Pointer[shape]

// maxVersions is above the highest version of any API; a test says so.
const maxVersions = 32

// shapeOf returns the shape of a known request, building it on first use. Two goroutines
// may build the same shape; either result will do.
func shapeOf(key, version int16) *shape {
	slot := &shapes[key][version]
	if s := slot.Load(); s != nil {
		return s
	}
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	root := reflect.ValueOf(req).Elem()
	fill(root)
	p := prober{encode: func() []byte { return req.AppendTo(nil) }, flexible: req.IsFlexible()}
	s := p.structure(root)
	slot.Store(s)
	return s
}

type prober struct {
	encode   func() []byte
	flexible bool
}

func skipField(f reflect.StructField) bool { return f.Name == "Version" || f.Name == "UnknownTags" }

// defaulted returns a new value of struct type t with kmsg's defaults.
func defaulted(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ Default() }); ok {
		d.Default()
	}
	return p.Elem()
}

// fill gives every field of a struct with default values another value: one element to
// arrays, one more character to strings.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		if !skipField(v.Type().Field(i)) {
			fillField(v.Field(i))
		}
	}
}

func fillField(f reflect.Value) {
	switch f.Kind() {
	case reflect.Bool:
		f.SetBool(!f.Bool())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		f.SetInt(f.Int() + 1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		f.SetUint(f.Uint() + 1)
	case reflect.Float64:
		f.SetFloat(f.Float() + 1)
	case reflect.String:
		f.SetString(f.String() + "x")
	case reflect.Array:
		fillField(f.Index(0))
	case reflect.Struct:
		fill(f)
	case reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		if p.Elem().Kind() == reflect.Struct {
			p.Elem().Set(defaulted(p.Elem().Type()))
		} else if !f.IsNil() {
			p.Elem().Set(f.Elem())
		}
		fillField(p.Elem())
		f.Set(p)
	case reflect.Slice:
		s := reflect.MakeSlice(f.Type(), 1, 1)
		if s.Index(0).Kind() == reflect.Struct {
			s.Index(0).Set(defaulted(f.Type().Elem()))
		}
		fillField(s.Index(0))
		f.Set(s)
	default:
		panic("protocol: kmsg has a request field of type " + f.Type().String())
	}
}

// structure finds out the shape of v, a filled struct within the request.
func (p *prober) structure(v reflect.Value) *shape {
	s := &shape{kind: kindStruct, mem: int64(v.Type().Size())}
	zero := defaulted(v.Type())
	for i := range v.NumField() {
		if skipField(v.Type().Field(i)) {
			continue
		}
		f := v.Field(i)
		with := p.encode()
		without := p.encodeWith(f, zero.Field(i))
		if bytes.Equal(with, without) {
			continue // not in this version
		}
		if fs := p.field(f); p.isTagged(f, len(with)-len(without)) {
			s.tags = append(s.tags, tag{num: tagNumber(with, without), shape: fs})
		} else {
			s.fields = append(s.fields, fs)
		}
	}
	return s
}

// encodeWith encodes the request with field f set to x.
func (p *prober) encodeWith(f, x reflect.Value) []byte {
	saved := reflect.New(f.Type()).Elem()
	saved.Set(f)
	f.Set(x)
	defer f.Set(saved)
	return p.encode()
}

// isTagged decides from the bytes that the value takes more than its default. A tagged
// field with its default value is absent, with number and size.
func (p *prober) isTagged(f reflect.Value, more int) bool {
	if !p.flexible {
		return false
	}
	switch f.Kind() {
	case reflect.String:
		return more != 1
	case reflect.Struct:
		return taggedStructs[f.Type()]
	case reflect.Pointer:
		return f.Elem().Kind() == reflect.String && more != 1
	case reflect.Slice:
		if f.Type().Elem().Kind() == reflect.Uint8 {
			return more != 1
		}
		elem := len(p.encodeWith(f, reflect.AppendSlice(f, f))) - len(p.encode())
		return more != elem
	}
	return more != 0
}

// tagNumber finds the tag that one encoding has and the other has not. They first
// differ in the count of their tags.
func tagNumber(with, without []byte) uint32 {
	i := 0
	for with[i] == without[i] {
		i++
	}
	have := tagNumbers(without[i:])
	for _, n := range tagNumbers(with[i:]) {
		if !slices.Contains(have, n) {
			return n
		}
	}
	panic("protocol: no tag tells the encodings apart")
}

func tagNumbers(b []byte) (nums []uint32) {
	n, b, _ := uvarint(b)
	for range n {
		num, after, _ := uvarint(b)
		size, after, ok := uvarint(after)
		if !ok || int(size) > len(after) {
			return nums
		}
		nums = append(nums, num)
		b = after[size:]
	}
	return nums
}

// field finds out the shape of a field's value.
func (p *prober) field(f reflect.Value) *shape {
	mem := int64(f.Type().Size())
	switch f.Kind() {
	case reflect.String:
		return &shape{kind: kindString, mem: mem}
	case reflect.Struct:
		return p.structure(f)
	case reflect.Pointer:
		if f.Elem().Kind() == reflect.String {
			return &shape{kind: kindNullable, mem: mem}
		}
		return &shape{kind: kindPointer, mem: mem, elem: p.structure(f.Elem())}
	case reflect.Slice:
		if f.Type().Elem().Kind() == reflect.Uint8 {
			return &shape{kind: kindBytes, mem: mem}
		}
		return &shape{kind: kindArray, mem: mem, elem: p.field(f.Index(0))}
	case reflect.Bool:
		return &shape{kind: kindFixed, wire: 1, mem: mem}
	}
	return &shape{kind: kindFixed, wire: int(mem), mem: mem} // numbers and UUIDs
}
