#include "parallel/mpi_engine.h"

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "core/error.h"
#include "core/text.h"
#include "parallel/shared_memory.h"

namespace tessera::parallel {
namespace {

constexpr int kQuestion = 1, kAnswer = 2;           // tags of the side channel
constexpr double kAnswerSeconds = 3;                // a rank that is silent for so long is stopped or dead
constexpr auto kIdleWake = std::chrono::milliseconds(25);
constexpr int kMaxExcuseHops = 8;
constexpr uint64_t kEndChannel = 1;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

Clock::time_point after(Clock::time_point from, double seconds) {
  return from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string describe(const std::string& name, const std::string& site) { return site.empty() ? name : name + " at " + site; }

std::string describe(const std::string& axis, const Operation& operation) {
  return detail::concat(axis, ' ', operation.name, " #", operation.sequence, operation.site.empty() ? "" : " at ", operation.site);
}

/// World ranks to which or from which parts of an exchange or all-to-all are under way. For the progress thread.
std::vector<int> pending_peers(const Operation& operation) {
  std::vector<int> peers;
  if (operation.part_peers.empty()) return peers;
  for (const int64_t part : operation.request_parts) peers.push_back(operation.part_peers[static_cast<size_t>(part)]);
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

std::string mpi_error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<size_t>(length));
}

void check(int code) {
  if (code != MPI_SUCCESS) throw CommError("failed: " + mpi_error_text(code));
}

float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Reductions of two bfloat16 vectors: widened to float32, rounded to nearest even after each pair.
template <typename Combine>
void reduce_bfloat16(void* in, void* inout, const int* length, Combine combine) {
  const auto* a = static_cast<const uint16_t*>(in);
  auto* b = static_cast<uint16_t*>(inout);
  for (int i = 0; i < *length; ++i) b[i] = round_to_bfloat16(combine(widen(a[i]), widen(b[i])));
}
void sum_bfloat16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bfloat16(in, inout, length, [](float a, float b) { return a + b; });
}
void max_bfloat16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bfloat16(in, inout, length, [](float a, float b) { return a > b || a != a ? a : b; });
}
void min_bfloat16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bfloat16(in, inout, length, [](float a, float b) { return a < b || a != a ? a : b; });
}

/// Ranks that can share memory are on one node.
std::vector<int> find_nodes(MPI_Comm world, int rank, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  int first = rank;
  MPI_Bcast(&first, 1, MPI_INT, 0, node);
  MPI_Comm_free(&node);
  std::vector<int> firsts(static_cast<size_t>(size));
  MPI_Allgather(&first, 1, MPI_INT, firsts.data(), 1, MPI_INT, world);
  std::map<int, int> numbers;
  for (const int f : firsts) numbers.emplace(f, static_cast<int>(numbers.size()));
  std::vector<int> nodes;
  for (const int f : firsts) nodes.push_back(numbers.at(f));
  return nodes;
}

}  // namespace

std::string describe_call(const std::string& name, const std::string& site, int64_t bytes, int64_t sequence) {
  return detail::concat(describe(name, site), " (", format_bytes(bytes), ") as its #", sequence);
}

std::string describe_callers(const Callers& callers) {
  std::vector<std::pair<std::string, std::vector<int>>> calls(callers.begin(), callers.end());
  std::stable_sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  std::vector<std::string> texts;
  for (const auto& [call, ranks] : calls) texts.push_back(name_ranks(ranks) + " called " + call);
  return "the ranks are out of step: " + join(texts);
}

// A question (where are you on this channel?) or its answer.
struct MpiEngine::SideMessage {
  uint64_t inquiry = 0;
  uint64_t channel = 0;
  int32_t collective = 1;
  int64_t sequence = 0;
  // The answer: what was the rank's last operation, and what was its operation number `sequence`.
  int32_t knows_channel = 0;
  int64_t last_sequence = 0;
  char last_operation[kTextSize + 32] = {};  // with its site
  char name_at_sequence[32] = {}, site_at_sequence[kTextSize] = {};
  int64_t bytes_at_sequence = 0;
  // Why the rank may be late.
  char phase[96] = {};
  double seconds_since_phase = -1;
  int32_t excuse_hops = 0;
  int32_t waits = 0, overdue = 0;
  double wait_left_seconds = 0;
  char waits_for[kTextSize + 96] = {};
  char failure[512] = {};  // what went wrong at the rank
};

struct MpiEngine::Inquiry {
  uint64_t id = 0;
  Channel* channel = nullptr;
  Operation* operation = nullptr;
  std::vector<int> targets;  // world ranks; filled in by the progress thread
  std::vector<int> pending;  // those of them that messages of this operation are still to come from or go to, where they are known
  std::map<int, SideMessage> answers;
  Clock::time_point deadline;
  bool done = false;
};

struct MpiEngine::PendingSend {
  SideMessage message;
  MPI_Request request = MPI_REQUEST_NULL;
};

struct MpiEngine::Verdict {
  double extend_seconds = 0;  // 0: fail
  bool defers = false;        // to a peer that is overdue itself
  int excuse_hops = 0;
  std::string text;  // the excuse, or what is missing
};

MpiEngine::MpiEngine(const MpiOptions& options) : options_(options) {
  TESSERA_CHECK(options.max_elements_per_call > 0 && options.max_elements_per_call <= INT32_MAX);
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    throw CommError("MPI_Init_thread failed; start the program with mpirun");
  }
  if (provided < MPI_THREAD_MULTIPLE) {
    throw CommError("this MPI has no MPI_THREAD_MULTIPLE, which Tessera needs; use Open MPI 4.1 or later");
  }
  MPI_Comm_dup(MPI_COMM_WORLD, &world_);
  MPI_Comm_dup(MPI_COMM_WORLD, &side_);
  MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(side_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world_, &rank_);
  MPI_Comm_size(world_, &size_);
  MPI_Op_create(sum_bfloat16, 1, &bfloat16_ops_[static_cast<size_t>(ReduceOp::kSum)]);
  MPI_Op_create(max_bfloat16, 1, &bfloat16_ops_[static_cast<size_t>(ReduceOp::kMax)]);
  MPI_Op_create(min_bfloat16, 1, &bfloat16_ops_[static_cast<size_t>(ReduceOp::kMin)]);
  nodes_ = find_nodes(world_, rank_, size_);
  end_channel_ = add_channel(world_, kEndChannel, "world");
  incoming_ = std::make_unique<SideMessage>();
  thread_ = std::thread([this] { run(); });
}

MpiEngine::~MpiEngine() { stop(); }

std::shared_ptr<Channel> MpiEngine::add_channel(MPI_Comm comm, uint64_t id, std::string axis) {
  auto channel = std::make_shared<Channel>();
  channel->id = id;
  channel->axis = std::move(axis);
  MPI_Comm_dup(comm, &channel->comm);
  MPI_Comm_set_errhandler(channel->comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(channel->comm, &channel->rank);
  int size = 0;
  MPI_Comm_size(channel->comm, &size);
  std::vector<int> members(static_cast<size_t>(size));
  for (int i = 0; i < size; ++i) members[static_cast<size_t>(i)] = i;
  channel->world_ranks.resize(members.size());
  MPI_Group group, world_group;
  MPI_Comm_group(channel->comm, &group);
  MPI_Comm_group(world_, &world_group);
  MPI_Group_translate_ranks(group, size, members.data(), world_group, channel->world_ranks.data());
  MPI_Group_free(&group);
  MPI_Group_free(&world_group);
  if (options_.shared_memory && id != kEndChannel) {
    channel->shared = SharedMemory::create(channel->comm, id, options_.shared_block_bytes);
  }
  std::lock_guard lock(mutex_);
  TESSERA_CHECK(channels_.emplace(id, channel).second, "two communicators have the id ", id);
  return channel;
}

void MpiEngine::submit(Channel& channel, const std::shared_ptr<Operation>& operation) {
  {
    std::lock_guard lock(mutex_);
    const size_t kind = operation->collective ? 0 : 1;
    operation->sequence = ++channel.sequence[kind];
    auto& history = channel.history[kind];
    history[static_cast<size_t>(operation->sequence) % history.size()] = {operation->sequence, operation->name, operation->site,
                                                                          operation->bytes};
    if (!failure_.empty()) {
      operation->done = true;
      operation->error = "was not begun: " + failure_;
      return;
    }
    submitted_.emplace_back(&channel, operation);
  }
  work_added_.notify_one();
}

bool MpiEngine::done(Operation& operation) {
  std::lock_guard lock(mutex_);
  return operation.done;
}

Clock::time_point MpiEngine::finished(Operation& operation) {
  std::lock_guard lock(mutex_);
  return operation.finished;
}

void MpiEngine::wait(Channel& channel, Operation& operation) {
  std::unique_lock lock(mutex_);
  if (!operation.done) {
    const auto here = waiting_.insert(waiting_.end(), Waiting{.channel = &channel, .operation = &operation,
                                                              .deadline = after(Clock::now(), options_.timeout_seconds)});
    work_added_.notify_one();  // the progress thread polls faster while someone waits
    for (int attempts = 0; !operation.done;) {
      work_done_.wait_until(lock, here->deadline, [&] { return operation.done || !failure_.empty(); });
      if (operation.done) break;
      if (!failure_.empty()) {
        operation.done = true;
        operation.error = "was given up: " + failure_;
        break;
      }
      here->overdue = true;
      const auto inquiry = inquire(lock, channel, operation);
      if (operation.done || !failure_.empty()) continue;
      const Verdict verdict = judge(operation, *inquiry, attempts++, here->deferred);
      if (verdict.extend_seconds > 0) {
        here->deadline = after(Clock::now(), verdict.extend_seconds);
        here->excuse_hops = verdict.excuse_hops;
        here->excuse = verdict.text;
        here->deferred |= verdict.defers;
        continue;
      }
      operation.done = true;
      operation.error = detail::concat("did not complete within ", format_seconds(options_.timeout_seconds), "; ",
                                       verdict.text);
    }
    waiting_.erase(here);
  }
  if (operation.error.empty()) return;
  const std::string text = detail::concat(describe(channel.axis, operation), " (", format_bytes(operation.bytes), ") ", operation.error);
  if (failure_.empty()) {
    failure_ = text;
    work_done_.notify_all();
  }
  throw CommError(text);
}

void MpiEngine::wait_for_all_to_end() {
  const auto operation = std::make_shared<Operation>();
  operation->name = "end";
  operation->num_parts = 1;
  operation->issue = [this](int64_t, MPI_Request* request) { return MPI_Ibarrier(end_channel_->comm, request); };
  submit(*end_channel_, operation);
  std::unique_lock lock(mutex_);
  while (!work_done_.wait_for(lock, std::chrono::duration<double>(options_.timeout_seconds),
                              [&] { return operation->done; })) {
    // A peer that still works may take as long as it likes; one that no longer answers never ends.
    const auto inquiry = inquire(lock, *end_channel_, *operation);
    for (const int target : inquiry->targets) {
      if (operation->done || inquiry->answers.count(target) != 0) continue;
      std::fprintf(stderr, "[rank %d] rank %d does not answer (stopped or dead); ending the job\n", rank_, target);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
}

void MpiEngine::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_added_.notify_one();
  if (thread_.joinable()) thread_.join();
}

uint64_t MpiEngine::begin_phase(std::string what, const Channel* channel) {
  std::lock_guard lock(mutex_);
  phases_.emplace(next_id_, Phase{std::move(what), channel});
  return next_id_++;
}

void MpiEngine::end_phase(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto phase = phases_.find(id);
  phase_ends_[phase->second.channel] = Clock::now();
  phases_.erase(phase);
}

void MpiEngine::set_timeout(double seconds) {
  TESSERA_CHECK(seconds > 0);
  std::lock_guard lock(mutex_);
  options_.timeout_seconds = seconds;
}

bool MpiEngine::healthy() {
  std::lock_guard lock(mutex_);
  return failure_.empty();
}

double MpiEngine::cpu_seconds() {
  clockid_t clock;
  timespec time{};
  if (pthread_getcpuclockid(thread_.native_handle(), &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// ---- the progress thread ----

void MpiEngine::run() {
  pthread_setname_np(pthread_self(), "tessera-mpi");
  prctl(PR_SET_TIMERSLACK, 1000);  // nanoseconds: the default of 50 us would double the shortest sleeps
  MPI_Irecv(incoming_.get(), sizeof(SideMessage), MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, side_, &incoming_request_);
  int quiet_rounds = 0;
  Clock::time_point last_served{};
  for (;;) {
    std::deque<std::pair<Channel*, std::shared_ptr<Operation>>> added;
    bool someone_waits = false;
    {
      std::unique_lock lock(mutex_);
      const auto woken = [this] { return stop_ || !submitted_.empty() || !inquiries_.empty(); };
      const bool idle = exchanges_.empty() && active_channels_.empty() && pending_sends_.empty() &&
                        open_inquiries_.empty();
      someone_waits = !waiting_.empty();
      if (idle) {
        work_added_.wait_for(lock, kIdleWake, woken);
        quiet_rounds = 0;
      } else if (const int spins = someone_waits ? 2000 : 20; quiet_rounds > spins) {
        // While threads compute, each poll takes a core from them; while they wait, it is free for some time.
        const int doublings = std::min((quiet_rounds - spins) / 16, 6);
        work_added_.wait_for(lock, std::chrono::microseconds(16 << doublings), woken);
      }
      added.swap(submitted_);
      for (auto& inquiry : inquiries_) open_inquiries_.emplace(inquiry->id, inquiry);
      inquiries_.clear();
      if (stop_) break;
    }
    for (auto& [channel, operation] : added) {
      quiet_rounds = 0;
      if (!operation->collective) {
        exchanges_.push_back(operation);
        continue;
      }
      if (channel->collectives.empty()) active_channels_.push_back(channel);
      channel->collectives.push_back(operation);
    }
    bool progress = false;
    for (auto it = exchanges_.begin(); it != exchanges_.end();) {
      progress |= poll(*it);
      it = (*it)->num_parts < 0 ? exchanges_.erase(it) : std::next(it);
    }
    for (auto it = active_channels_.begin(); it != active_channels_.end();) {
      progress |= poll_channel(**it);
      it = (*it)->collectives.empty() ? active_channels_.erase(it) : std::next(it);
    }
    quiet_rounds = progress ? 0 : quiet_rounds + 1;
    if (!progress && quiet_rounds > 20) sched_yield();
    const auto now = Clock::now();
    if (now - last_served > std::chrono::milliseconds(2)) {
      serve_side_channel();
      last_served = now;
    }
  }
  MPI_Cancel(&incoming_request_);
  MPI_Request_free(&incoming_request_);
}

// Starts what may be started and tests what is in flight. A finished operation is marked by num_parts = -1.
bool MpiEngine::poll(const std::shared_ptr<Operation>& operation) {
  Operation& op = *operation;
  try {
    if (op.step) {
      const Operation::Progress progress = op.step();
      if (progress == Operation::Progress::kComplete) complete(op, "");
      return progress != Operation::Progress::kNone;
    }
    bool progress = false;
    while (op.issued < op.num_parts && static_cast<int64_t>(op.requests.size()) < op.max_in_flight) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(op.issue(op.issued, &request));
      op.requests.push_back(request);
      op.request_parts.push_back(op.issued++);
      progress = true;
    }
    for (size_t i = 0; i < op.requests.size();) {
      int flag = 0;
      check(MPI_Test(&op.requests[i], &flag, MPI_STATUS_IGNORE));
      if (flag == 0) {
        ++i;
        continue;
      }
      progress = true;
      op.requests.erase(op.requests.begin() + static_cast<int64_t>(i));
      op.request_parts.erase(op.request_parts.begin() + static_cast<int64_t>(i));
    }
    if (op.requests.empty() && op.issued == op.num_parts) complete(op, "");
    return progress;
  } catch (const CommError& error) {
    complete(op, error.what());
    return true;
  }
}

// The head of the queue; those behind it may start once all its calls are issued, so that every rank issues the same
// calls in the same order.
bool MpiEngine::poll_channel(Channel& channel) {
  bool progress = false;
  for (auto it = channel.collectives.begin(); it != channel.collectives.end();) {
    const std::shared_ptr<Operation> operation = *it;
    progress |= poll(operation);
    if (operation->num_parts < 0) {
      it = channel.collectives.erase(it);
      continue;
    }
    if (operation->step || operation->issued < operation->num_parts) break;
    ++it;
  }
  return progress;
}

void MpiEngine::complete(Operation& operation, const std::string& error) {
  if (error.empty() && operation.finish) operation.finish();
  operation.num_parts = -1;
  {
    std::lock_guard lock(mutex_);
    if (!operation.done) operation.error = error;
    operation.done = true;
    operation.finished = Clock::now();
  }
  work_done_.notify_all();
}

// ---- the side channel ----

std::shared_ptr<MpiEngine::Inquiry> MpiEngine::inquire(std::unique_lock<std::mutex>& lock, Channel& channel,
                                                       Operation& operation) {
  auto inquiry = std::make_shared<Inquiry>();
  inquiry->id = next_id_++;
  inquiry->channel = &channel;
  inquiry->operation = &operation;
  inquiry->deadline = after(Clock::now(), kAnswerSeconds);
  inquiries_.push_back(inquiry);
  work_added_.notify_one();
  work_done_.wait(lock, [&] { return inquiry->done; });
  return inquiry;
}

void MpiEngine::start_inquiry(Inquiry& inquiry) {
  Operation& operation = *inquiry.operation;
  inquiry.pending = pending_peers(operation);
  inquiry.targets = operation.collective ? inquiry.channel->world_ranks : inquiry.pending;
  std::erase(inquiry.targets, rank_);
  for (const int target : inquiry.targets) {
    auto send = std::make_unique<PendingSend>();
    send->message.inquiry = inquiry.id;
    send->message.channel = inquiry.channel->id;
    send->message.collective = operation.collective;
    send->message.sequence = operation.sequence;
    MPI_Isend(&send->message, sizeof(SideMessage), MPI_BYTE, target, kQuestion, side_, &send->request);
    pending_sends_.push_back(std::move(send));
  }
}

void MpiEngine::serve_side_channel() {
  for (;;) {
    int flag = 0;
    MPI_Status status;
    MPI_Test(&incoming_request_, &flag, &status);
    if (flag == 0) break;
    if (status.MPI_TAG == kQuestion) {
      answer(*incoming_, status.MPI_SOURCE);
    } else if (const auto found = open_inquiries_.find(incoming_->inquiry); found != open_inquiries_.end()) {
      found->second->answers[status.MPI_SOURCE] = *incoming_;
    }
    MPI_Irecv(incoming_.get(), sizeof(SideMessage), MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, side_,
              &incoming_request_);
  }
  for (auto it = pending_sends_.begin(); it != pending_sends_.end();) {
    int flag = 0;
    MPI_Test(&(*it)->request, &flag, MPI_STATUS_IGNORE);
    it = flag != 0 ? pending_sends_.erase(it) : std::next(it);
  }
  for (auto it = open_inquiries_.begin(); it != open_inquiries_.end();) {
    Inquiry& inquiry = *it->second;
    if (inquiry.targets.empty() && inquiry.answers.empty()) start_inquiry(inquiry);
    if (inquiry.answers.size() < inquiry.targets.size() && Clock::now() < inquiry.deadline) {
      ++it;
      continue;
    }
    {
      std::lock_guard lock(mutex_);
      inquiry.done = true;
    }
    work_done_.notify_all();
    it = open_inquiries_.erase(it);
  }
}

void MpiEngine::answer(const SideMessage& question, int to) {
  auto send = std::make_unique<PendingSend>();
  SideMessage& message = send->message;
  message = question;
  {
    std::lock_guard lock(mutex_);
    const auto found = channels_.find(question.channel);
    if (found != channels_.end()) {
      const Channel& channel = *found->second;
      message.knows_channel = 1;
      const size_t kind = question.collective != 0 ? 0 : 1;
      message.last_sequence = channel.sequence[kind];
      const auto record = [&](int64_t sequence) {
        return channel.history[kind][static_cast<size_t>(sequence) % channel.history[kind].size()];
      };
      const Channel::Record last = record(message.last_sequence);
      copy_text(message.last_operation, describe(last.name, last.site));
      if (const auto same = record(question.sequence); question.collective != 0 && same.sequence == question.sequence) {
        copy_text(message.name_at_sequence, same.name);
        copy_text(message.site_at_sequence, same.site);
        message.bytes_at_sequence = same.bytes;
      }
    }
    copy_text(message.failure, failure_);
    tell_phase(found != channels_.end() ? found->second.get() : nullptr, message);
    if (!waiting_.empty()) {
      const Waiting& waiting = waiting_.front();
      message.waits = 1;
      message.overdue = waiting.overdue;
      message.wait_left_seconds = seconds_between(Clock::now(), waiting.deadline);
      const std::vector<int> peers = waiting.operation->done ? std::vector<int>{} : pending_peers(*waiting.operation);
      copy_text(message.waits_for, describe(waiting.channel->axis, *waiting.operation) + (peers.empty() ? "" : " with " + name_ranks(peers)));
      if (waiting.excuse_hops > 0 && message.wait_left_seconds > 0) {
        message.excuse_hops = waiting.excuse_hops;
        copy_text(message.phase, waiting.excuse);
      }
    }
  }
  MPI_Isend(&message, sizeof(SideMessage), MPI_BYTE, to, kAnswer, side_, &send->request);
  pending_sends_.push_back(std::move(send));
}

// Why this rank may be late on the channel: a long phase that concerns it, or one that has just ended. Holds the mutex.
void MpiEngine::tell_phase(const Channel* channel, SideMessage& message) const {
  for (const auto& [id, phase] : phases_)
    if (phase.channel == nullptr || phase.channel == channel) copy_text(message.phase, phase.what);
  const auto now = Clock::now();
  for (const auto& [concerned, end] : phase_ends_) {
    if (concerned != nullptr && concerned != channel) continue;
    const double seconds = seconds_between(end, now);
    if (message.seconds_since_phase < 0 || seconds < message.seconds_since_phase) message.seconds_since_phase = seconds;
  }
}

// Decides from the answers whether to go on waiting. Holds the mutex.
MpiEngine::Verdict MpiEngine::judge(const Operation& operation, const Inquiry& inquiry, int attempts, bool deferred) const {
  std::vector<std::string> missing, silent;
  std::vector<int> here = {rank_};
  Callers callers;
  if (operation.collective) callers[describe_call(operation.name, operation.site.substr(0, kTextSize - 1), operation.bytes, operation.sequence)] = {rank_};
  Verdict excuse;
  const auto excuse_by = [&](double seconds, int hops, std::string text, bool defers = false) {
    if (seconds <= excuse.extend_seconds) return;
    excuse = {seconds, defers, hops, std::move(text)};
  };
  for (const int target : inquiry.targets) {
    const std::string name = "rank " + std::to_string(target);
    const auto found = inquiry.answers.find(target);
    if (found == inquiry.answers.end()) {
      silent.push_back(name + " does not answer (stopped or dead)");
      continue;
    }
    const SideMessage& peer = found->second;
    if (peer.failure[0] != '\0') return {0, false, 0, name + " failed: " + peer.failure};  // it knows the cause
    const bool arrived = operation.collective && peer.last_sequence >= operation.sequence;
    if (arrived) {
      if (peer.name_at_sequence[0] != '\0')
        callers[describe_call(peer.name_at_sequence, peer.site_at_sequence, peer.bytes_at_sequence, operation.sequence)].push_back(target);
      here.push_back(target);
      continue;
    }
    std::string state = name + " has not arrived (";
    if (peer.knows_channel == 0) {
      state += "it has not made this communicator yet";
    } else {
      state += detail::concat("it is at #", peer.last_sequence, peer.last_operation[0] != '\0' ? " " : "", peer.last_operation);
    }
    if (peer.waits != 0) state += detail::concat(", waiting for ", peer.waits_for);
    missing.push_back(state + ")");

    if (peer.phase[0] != '\0' && peer.excuse_hops < kMaxExcuseHops) {
      excuse_by(options_.timeout_seconds, peer.excuse_hops + 1, peer.phase);
    } else if (peer.seconds_since_phase >= 0 && peer.seconds_since_phase < options_.timeout_seconds) {
      excuse_by(options_.timeout_seconds - peer.seconds_since_phase, 1, "just left a long phase");
    } else if (peer.waits != 0 && peer.overdue == 0) {
      // It waits itself, for whoever is the cause, and knows better: let it speak first.
      excuse_by(std::min(peer.wait_left_seconds, options_.timeout_seconds) + 0.5, 0, "");
    } else if (peer.waits != 0 && !deferred) {
      // It is asking its own peers, or waits for this rank: then neither gets further, and both speak next time.
      excuse_by(kAnswerSeconds + 0.5, 0, "", true);
    }
  }
  const auto failure = [](std::string text) { return Verdict{0, false, 0, std::move(text)}; };
  if (callers.size() > 1) return failure(describe_callers(callers));
  if (!silent.empty() || (!missing.empty() && excuse.extend_seconds == 0)) {
    silent.insert(silent.end(), missing.begin(), missing.end());
    std::string text = join(silent);
    if (operation.collective) text += detail::concat("; ", name_ranks(here), here.size() == 1 ? " waits at #" : " wait at #", operation.sequence);
    return failure(text);
  }
  if (!missing.empty()) return excuse;
  if (attempts == 0) return {options_.timeout_seconds, false, 0, ""};  // all are there: the transfer is slow
  if (inquiry.pending.empty()) return failure("all ranks have arrived, but the transfer does not end");
  return failure("all ranks have arrived, but the transfer with " + name_ranks(inquiry.pending) + " does not end");
}

}  // namespace tessera::parallel
