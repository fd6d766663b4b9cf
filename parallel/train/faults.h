#pragma once
#include <string>
#include <vector>

#include "parallel/model/observer.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// debug.inject: faults that a rank of a run is to have, so that tests show what the run does about them. Each is
//   KIND TENSOR RANK FIRST LAST VALUE
// and ';' separates them. It is caused in the steps that begin with one of the sequences FIRST to LAST of the run (its
// consumed samples, so that a skipped step is not met again), in one element in the middle of what RANK holds of it:
//   parameter  as the step begins, of a parameter's canonical name
//   moment     the same of the first moment, of what the rank owns of it
//   gradient   of a parameter, when a microbatch's is complete, before it is added to other ranks'
//   activation as the observer is shown it (debug.dump), by its name there: layers.1.x, final_norm
// VALUE: nan, inf; once, a flipped bit, the first time alone; lasting, each time another bit.
struct Fault {
  enum class Kind : std::uint8_t { Parameter, Moment, Gradient, Activation };
  enum class Value : std::uint8_t { Nan, Inf, Once, Lasting };
  Kind kind = Kind::Gradient;
  std::string tensor;
  int rank = 0;
  std::int64_t first = 0, last = 0;
  Value value = Value::Nan;
  int fired = 0;
};

// InputError where the text is no list of faults, or names no parameter of the model.
std::vector<Fault> parse_faults(const Config& config);

// Those of one rank. It writes what an observer otherwise only reads.
class Faults : public Observer {
 public:
  Faults(const Config& config, int rank, Device& device, Stream& stream);
  void begin_step(Trainer& t);
  void gradients_complete(Trainer& t, std::int64_t layer);
  void begin_microbatch() override {}
  void activation(std::int64_t layer, const char* name, const Tensor& x) override;
  void gradient(std::int64_t, const char*, const Tensor&) override {}

 private:
  template <class F>
  void for_each(Fault::Kind kind, const F& f);
  void cause(Fault& fault, const Tensor& x, std::int64_t element);
  std::vector<Fault> faults_;
  Device& device_;
  Stream& stream_;
  std::int64_t begun_ = -1;  // the step's first sequence
};

}  // namespace upcycle
