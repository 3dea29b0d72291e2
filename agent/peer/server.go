package peer

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Leader does what other agents ask of the shards that this agent leads, or says ErrFenced.
type Leader interface {
	// SequenceHere commits a submission.
	SequenceHere(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error)
	// AnswerHere answers a question.
	AnswerHere(ctx context.Context, q Question) ([]byte, error)
}

// Server answers other agents.
type Server struct{ grpc *grpc.Server }

// NewServer returns a server for what other agents ask of l and, unless it is nil, of blocks, as
// far as the guard lets them.
func NewServer(l Leader, blocks Blocks, g Guard) *Server {
	calls := &blockCalls{}
	creds := insecure.NewCredentials()
	if g.TLS != nil {
		creds = credentials.NewTLS(g.TLS)
	}
	s := grpc.NewServer(
		grpc.Creds(creds),
		grpc.InTapHandle(g.admit(g.token())),
		grpc.StatsHandler(calls),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		// Each agent has one submission under way per shard, so this is for the shards of
		// all agents together.
		grpc.MaxConcurrentStreams(1024),
	)
	methods := []grpc.MethodDesc{{MethodName: sequenceMethod, Handler: handleSequence}, {MethodName: askMethod, Handler: handleAsk}}
	if blocks != nil {
		methods = append(methods, grpc.MethodDesc{MethodName: blockMethod, Handler: handleBlock})
	}
	s.RegisterService(&grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*Leader)(nil), Methods: methods}, service{l, blocks, calls})
	return &Server{s}
}

func handleSequence(srv any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in []byte
	if err := receive(&in); err != nil {
		return nil, err
	}
	if err := speaks(in); err != nil {
		return nil, err
	}
	id, s, err := decodeRequest(in)
	if errors.Is(err, shard.ErrVersion) {
		return nil, grpcstatus.Error(codes.Unimplemented, err.Error())
	}
	var out []shard.Outcome
	if err == nil {
		out, err = srv.(Leader).SequenceHere(ctx, id, s)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // the outcome may be unknown: let the caller ask again
	}
	answer := encodeAnswer(out, err)
	return &answer, nil
}

// speaks refuses a message of a version that this agent does not know, so that whoever sent it
// knows that nothing was done, and may say it in the words of an older one.
func speaks(in []byte) error {
	if len(in) > 0 && in[0] > protocolVersion {
		return grpcstatus.Errorf(codes.Unimplemented, "a message of version %d, this agent knows up to %d", in[0], protocolVersion)
	}
	return nil
}

func handleAsk(srv any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in []byte
	if err := receive(&in); err != nil {
		return nil, err
	}
	if err := speaks(in); err != nil {
		return nil, err
	}
	q, err := decodeQuestion(in)
	var out []byte
	if err == nil {
		out, err = srv.(Leader).AnswerHere(ctx, q)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // the outcome may be unknown: let the caller ask again
	}
	answer := append([]byte{byte(statusOK)}, out...)
	if err != nil {
		answer = encodeError(err)
	}
	return &answer, nil
}

// Serve accepts connections until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop lets calls under way finish until ctx ends, then breaks them off.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}
