// Layouts in which channels of a cell are neighbours, cell by cell against their definition.
#include "kernels/interleave.hpp"

#include "tests/support/seed.hpp"
#include "tests/unit/kernels/support.hpp"

namespace tessera::kernels::test {
namespace {

PlainCells cells_of(FloatView view, const Box& box) {
  const Index row = view.box.x.size(), plane = row * view.box.y.size();
  return {&view.at(box.n.begin, box.c.begin, box.y.begin, box.x.begin),
          {box.n.size(), box.c.size(), box.y.size(), box.x.size()},
          {plane * view.box.c.size(), plane, row}};
}

}  // namespace

TEST_CASE("interleave and deinterleave move every cell of a box and no other") {
  Random random(static_cast<Random::result_type>(testing::seed()));
  for (int run = 0; run < 300; ++run) {
    const Index group = uniform(random, 0, 1) == 0 ? 16 : uniform(random, 1, 40), groups = uniform(random, 1, 3);
    const Box whole =
        Box::whole(uniform(random, 1, 3), {group * groups + uniform(random, 0, 5), uniform(random, 1, 9), uniform(random, 1, 40)});
    Box box{random_range(random, whole.n.size()),
            {0, group * groups},
            random_range(random, whole.y.size()),
            random_range(random, whole.x.size())};
    const Index skip = uniform(random, 0, whole.c.size() - box.c.size());
    box.c = {skip, skip + box.c.size()};
    const bool add = uniform(random, 0, 1) == 1;
    CAPTURE(testing::seed());
    CAPTURE(run);
    CAPTURE(group);
    CAPTURE(to_string(whole));
    CAPTURE(to_string(box));
    CAPTURE(add);

    Tensor plain(whole);
    plain.randomize(random, box);
    const Box flat{{0, 1}, {0, 1}, {0, 1}, {0, box.elements()}};
    Tensor grouped(flat);
    interleave(cells_of(plain.view(), box), group, grouped.view().data);
    const auto place = [&](Index n, Index c, Index y, Index x) {
      const Index sample = (n - box.n.begin) * groups + (c - box.c.begin) / group;
      return ((sample * box.y.size() + y - box.y.begin) * box.x.size() + x - box.x.begin) * group + (c - box.c.begin) % group;
    };
    Tensor back(whole);
    back.randomize(random, box);
    Tensor expected = back;
    Index wrong = 0;
    for (Index n = box.n.begin; n < box.n.end; ++n)
      for (Index c = box.c.begin; c < box.c.end; ++c)
        for (Index y = box.y.begin; y < box.y.end; ++y)
          for (Index x = box.x.begin; x < box.x.end; ++x) {
            wrong += !(grouped.at(0, 0, 0, place(n, c, y, x)) == plain.at(n, c, y, x));
            expected.at(n, c, y, x) = plain.at(n, c, y, x) + (add ? expected.at(n, c, y, x) : 0.f);
          }
    REQUIRE(wrong == 0);
    deinterleave(grouped.view().data, group, cells_of(back.view(), box), add);
    REQUIRE(back.same_bits(expected));
    REQUIRE(grouped.same_outside(Tensor(flat), flat));
  }
}

}  // namespace tessera::kernels::test
