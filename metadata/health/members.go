package health

import (
	"context"

	"github.com/floelog/floe/metadata"
)

var _ metadata.Inspector = (*Store)(nil)

// Members implements metadata.Inspector, where the observed store does.
func (s *Store) Members(ctx context.Context) []metadata.MemberStatus {
	if i, ok := s.Store.(metadata.Inspector); ok {
		return i.Members(ctx)
	}
	return nil
}
