#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/split_float.h"
#include "tests/kernels/op_fixture.h"

// The optimizers' state in other forms than fp32: masters beside their rounding, moments in bf16.
namespace upcycle {
namespace {

std::uint32_t bits_at(const Tensor& t, std::int64_t i) { return std::bit_cast<std::uint32_t>(t.as<float>()[i]); }

// The state of one optimizer over n elements that begin `offset` elements behind an aligned address.
struct State {
  HostTensor param_room, master_room, low_room, m_room, v_room, ties;
  Tensor param, master, low, m, v;
  bool split;

  State(DType dtype, bool split_, DType moment, std::int64_t n, std::int64_t offset)
      : param_room(dtype, {n + offset}),
        master_room(DType::F32, {n + offset}),
        low_room(DType::BF16, {n + offset}),
        m_room(moment, {n + offset}),
        v_room(moment, {n + offset}),
        ties(DType::I32, {(n + 31) / 32}),
        param(param_room.slice_rows(offset, n + offset)),
        master(master_room.slice_rows(offset, n + offset)),
        low(low_room.slice_rows(offset, n + offset)),
        m(m_room.slice_rows(offset, n + offset)),
        v(v_room.slice_rows(offset, n + offset)),
        split(split_) {}

  // Masters of any size and sign, every third a tie; param is their rounding.
  void fill() {
    for (std::int64_t i = 0; i < master.size(); ++i) {
      const auto random = rng::bits(11, 3, static_cast<std::uint64_t>(i));
      std::uint32_t bits = (random[0] & 0x8fffffffu) | 0x30000000u;
      if (i % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
      if (i % 50 == 1) bits &= 0x80ffffffu;  // and tiny ones
      set_master(i, bits);
      set(m, i, 0.1 * rng::normal(7, 1, static_cast<std::uint64_t>(i)));
      set(v, i, 0.01 * rng::uniform(7, 2, static_cast<std::uint64_t>(i)));
    }
  }
  void set_master(std::int64_t i, std::uint32_t bits) {
    const auto x = std::bit_cast<float>(bits);
    master.as<float>()[i] = x;
    set(param, i, x);
    if (!split) return;
    low.as<bf16>()[i].bits = static_cast<std::uint16_t>(low_half(bits));
    auto* const word = ties.as<std::int32_t>() + i / 32;
    const auto bit = std::uint32_t{1} << (i % 32);
    *word = static_cast<std::int32_t>((static_cast<std::uint32_t>(*word) & ~bit) | (raised_tie(bits) ? bit : 0));
  }
  std::uint32_t master_bits(std::int64_t i) const {
    if (!split) return bits_at(master, i);
    const auto word = static_cast<std::uint32_t>(ties.as<std::int32_t>()[i / 32]);
    return join_halves(param.as<bf16>()[i].bits, low.as<bf16>()[i].bits, (word >> (i % 32) & 1u) != 0);
  }
  UpdateTensors tensors(const Tensor& grad, const MomentRounding& rounding = {}) const {
    return {param, split ? low : master, m, v, grad, split ? Tensor(ties) : Tensor{}, rounding};
  }
  // Elements [begin, end), begin a multiple of 32.
  UpdateTensors part(const Tensor& grad, const MomentRounding& rounding, std::int64_t begin, std::int64_t end) const {
    UpdateTensors t = tensors(grad, rounding);
    for (Tensor* x : {&t.param, &t.master, &t.m, &t.v, &t.grad}) *x = x->slice_rows(begin, end);
    if (split) t.ties = t.ties.slice_rows(begin / 32, (end + 31) / 32);
    return t;
  }
};

struct OptimizerForms : OpTest {
  HostTensor scale{DType::F32, {1}};
  OptimizerForms() { set(scale, 0, 0.7); }

  // Of every optimizer; `still`: a rate of 0, so that masters stay as they are.
  void update(const std::string& rule, const UpdateTensors& t, std::int64_t step, bool still = false) {
    const float lr = still ? 0 : 1e-2f;
    if (rule == "adamw") ops->adamw(*stream, t, scale, {lr, 0.9f, 0.95f, 1e-8f, 0.1f, step});
    if (rule == "lion") ops->lion(*stream, without_v(t), scale, {lr, 0.9f, 0.99f, 0.1f});
    if (rule == "sgd") {
      UpdateTensors none = without_v(t);
      none.m = {};
      ops->sgd(*stream, none, scale, lr, 0.1f);
    }
  }
  static UpdateTensors without_v(UpdateTensors t) {
    t.v = {};
    return t;
  }
};

struct Shape {
  std::int64_t n, offset;
};
const Shape kShapes[] = {{0, 0}, {1, 0}, {7, 3}, {33, 0}, {2048, 0}, {2051, 1}, {40003, 0}};

TEST_F(OptimizerForms, SplitMastersGiveTheBitsOfWholeOnes) {
  for (const char* rule : {"adamw", "lion", "sgd"})
    for (const DType moment : {DType::F32, DType::BF16})
      for (const auto& [n, offset] : kShapes) {
        SCOPED_TRACE(std::string(rule) + " " + name_of(moment) + " " + std::to_string(n));
        State whole(DType::BF16, false, moment, n, offset), split(DType::BF16, true, moment, n, offset);
        whole.fill();
        split.fill();
        for (std::int64_t step = 1; step <= 4; ++step) {
          const HostTensor grad = random_tensor(DType::F32, {n}, "grad" + std::to_string(step));
          update(rule, whole.tensors(grad), step, step == 1);
          update(rule, split.tensors(grad), step, step == 1);
          std::int64_t ties = 0;
          for (std::int64_t i = 0; i < n; ++i) {
            ASSERT_EQ(split.master_bits(i), whole.master_bits(i)) << "step " << step << " at " << i;
            ties += raised_tie(whole.master_bits(i)) ? 1 : 0;
          }
          EXPECT_GE(ties, step == 1 ? n / 12 : 0);  // they are carried on
          ASSERT_TRUE(same_bits(split.param, whole.param));
          ASSERT_TRUE(same_bits(split.m, whole.m) && same_bits(split.v, whole.v));
        }
      }
}

// In fp32 as it was, then rounded by the draw of the element's number in the global matrix.
TEST_F(OptimizerForms, MomentsAreRoundedByTheirElementsDraws) {
  const auto draw = [](const DrawStream& s, std::uint64_t element) {
    std::uint32_t words[4];
    draw_block(words, s, element / 8);
    return draw_of(words, element);
  };
  struct Place {
    std::int64_t first, width, pitch;
  };
  for (const char* rule : {"adamw", "lion"})
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const auto& [n, offset] : kShapes)
        for (const Place& p : {Place{0, 1 << 20, 1 << 20}, {5, 1 << 20, 1 << 20}, {3, 9, 100}, {16, 24, 64}}) {
          SCOPED_TRACE(std::string(rule) + " " + name_of(dtype) + " " + std::to_string(n) + " " +
                       std::to_string(p.width));
          const MomentRounding rounding{{1, 2}, {3, 4}, p.first, p.width, p.pitch};
          State whole(dtype, false, DType::F32, n, offset), rounded(dtype, false, DType::BF16, n, offset);
          whole.fill();
          rounded.fill();
          for (std::int64_t i = 0; i < n; ++i) {
            set(whole.m, i, to_float(rounded.m.as<bf16>()[i]));
            set(whole.v, i, to_float(rounded.v.as<bf16>()[i]));
          }
          const HostTensor grad = random_tensor(DType::F32, {n}, "grad");
          update(rule, whole.tensors(grad), 2);
          update(rule, rounded.tensors(grad, rounding), 2);
          ASSERT_TRUE(same_bits(rounded.master, whole.master) && same_bits(rounded.param, whole.param));
          const bool second = std::string(rule) == "adamw";
          for (std::int64_t i = 0; i < n; ++i) {
            const auto element = static_cast<std::uint64_t>(p.first + i / p.width * p.pitch + i % p.width);
            ASSERT_EQ(rounded.m.as<bf16>()[i].bits, round_by_draw(bits_at(whole.m, i), draw(rounding.m, element))) << i;
            if (!second) continue;
            ASSERT_EQ(rounded.v.as<bf16>()[i].bits, round_by_draw(bits_at(whole.v, i), draw(rounding.v, element))) << i;
          }
        }
}

// Neither threads show, nor where a shard begins.
TEST_F(OptimizerForms, PartsGiveTheBitsOfTheWhole) {
  const std::int64_t n = 70003;
  const HostTensor grad = random_tensor(DType::F32, {n}, "grad");
  for (const char* rule : {"adamw", "lion"}) {
    MomentRounding rounding{{1, 2}, {3, 4}, 40, n, n};
    State whole(DType::BF16, true, DType::BF16, n, 0), cut(DType::BF16, true, DType::BF16, n, 0);
    whole.fill();
    cut.fill();
    {
      const ThreadCount three(3);
      update(rule, whole.tensors(grad, rounding), 1);
    }
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 32}, {32, 30016}, {30016, n}}) {
      MomentRounding from = rounding;
      from.first += begin;
      update(rule, cut.part(grad, from, begin, end), 1);
    }
    EXPECT_TRUE(same_bits(whole.param, cut.param) && same_bits(whole.low, cut.low) && same_bits(whole.ties, cut.ties));
    EXPECT_TRUE(same_bits(whole.m, cut.m) && same_bits(whole.v, cut.v));
  }
}

// A moment that decays by less than half its last place stays where it is with rounding to nearest; its mean must not.
TEST_F(OptimizerForms, SmallChangesAddUp) {
  const std::int64_t n = 20000;
  State s(DType::F32, false, DType::BF16, n, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    set(s.m, i, 1);
    set(s.v, i, 1);
  }
  const HostTensor grad(DType::F32, {n});
  for (std::uint64_t step = 1; step <= 100; ++step)
    ops->adamw(*stream, s.tensors(grad, {{step, 1}, {step, 2}, 0, n, n}), scale,
               {1e-3f, 0.999f, 0.9995f, 1e-8f, 0, static_cast<std::int64_t>(step)});
  double m = 0, v = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    m += s.m.as<bf16>()[i].bits == 0 ? 0 : static_cast<double>(to_float(s.m.as<bf16>()[i])) / n;
    v += static_cast<double>(to_float(s.v.as<bf16>()[i])) / n;
  }
  // A step of 2^-8 is taken with probability 0.256, later less: a deviation of 2^-8 * 5 over sqrt(n), at most.
  EXPECT_NEAR(m, std::pow(0.999, 100), 6e-4);
  EXPECT_NEAR(v, std::pow(0.9995, 100), 6e-4);
}

TEST_F(OptimizerForms, ArgumentsAreChecked) {
  State s(DType::BF16, true, DType::F32, 40, 0);
  s.fill();
  const HostTensor grad(DType::F32, {40}), short_ties(DType::I32, {1}), fp32(DType::F32, {40}), half(DType::BF16, {40});
  UpdateTensors t = s.tensors(grad);
  t.ties = short_ties;
  EXPECT_THROW(update("adamw", t, 1), Error);
  t = s.tensors(grad);
  t.param = fp32;
  EXPECT_THROW(update("sgd", t, 1), Error);
  t = s.tensors(grad);
  t.v = half;
  EXPECT_THROW(update("adamw", t, 1), Error);
  t = s.tensors(grad, {{}, {}, 0, 0, 0});
  t.m = half;
  EXPECT_THROW(update("lion", t, 1), Error);
}

}  // namespace
}  // namespace upcycle
