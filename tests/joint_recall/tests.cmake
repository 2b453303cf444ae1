# Tests of the trainer run the built program.
if(TARGET joint_recall AND TARGET test_joint_recall)
  add_dependencies(test_joint_recall joint_recall)
  target_compile_definitions(test_joint_recall PRIVATE
    JOINT_RECALL_PROGRAM="$<TARGET_FILE:joint_recall>"
    JOINT_RECALL_FOLDER="${PROJECT_SOURCE_DIR}/examples/joint_recall"
    JOINT_RECALL_CONFIGS="${PROJECT_SOURCE_DIR}/examples/joint_recall/configs")
endif()
