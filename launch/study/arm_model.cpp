#include "launch/study/arm_model.h"

#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "parallel/upcycle/rules.h"

namespace upcycle {

ModelConfig arm_model(const Study& study, const StudySize& size, const StudyArm* arm) {
  if (arm == nullptr || arm->from == StartsFrom::Dense) return size.model;
  const std::string where = study.file + ": arms." + arm->name + ".run";
  Json run = study.run;
  run.merge_patch(arm->run);
  const Config c = parse_config_text(run.dump(), where, {});
  if (arm->from == StartsFrom::Upcycle) return upcycled_model(size.model, c.model, c.upcycle, where);
  ModelConfig model = with_experts_of(c.model, size.model);
  check_model(model, where);
  return model;
}

std::string model_json(const ModelConfig& model) {
  Json all = Json::parse(to_json(model));
  for (const Field& field : fields())
    if (field.of_experts) all.erase(field.key.substr(std::string("model.").size()));
  return all.dump();
}

}  // namespace upcycle
