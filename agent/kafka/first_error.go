package kafka

import (
	"reflect"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// errorPath says where within a kind of response structure there may be error codes.
type errorPath struct {
	code int // the field named ErrorCode, -1 for none
	subs []subPath
}

// subPath is a field that holds structures with error codes.
type subPath struct {
	field int
	elem  *errorPath
}

var errorPaths sync.Map // reflect.Type of a response structure -> *errorPath

// errorPathOf finds the codes of a structure; nil if there are none. In all responses a
// structure's own code stands before those of its parts.
func errorPathOf(t reflect.Type) *errorPath {
	p := &errorPath{code: -1}
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Name == "ErrorCode" && f.Type.Kind() == reflect.Int16:
			p.code = i
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			if elem := errorPathOf(f.Type.Elem()); elem != nil {
				p.subs = append(p.subs, subPath{i, elem})
			}
		}
	}
	if p.code < 0 && len(p.subs) == 0 {
		return nil
	}
	return p
}

// firstError returns the response's own error, or else the first of its parts; 0 for none.
func firstError(resp kmsg.Response) int16 {
	v := reflect.ValueOf(resp).Elem()
	p, ok := errorPaths.Load(v.Type())
	if !ok {
		p, _ = errorPaths.LoadOrStore(v.Type(), errorPathOf(v.Type()))
	}
	return p.(*errorPath).first(v)
}

func (p *errorPath) first(v reflect.Value) int16 {
	if p == nil {
		return 0
	}
	if p.code >= 0 {
		if code := v.Field(p.code).Int(); code != 0 {
			return int16(code)
		}
	}
	for _, s := range p.subs {
		list := v.Field(s.field)
		for i := range list.Len() {
			if code := s.elem.first(list.Index(i)); code != 0 {
				return code
			}
		}
	}
	return 0
}
